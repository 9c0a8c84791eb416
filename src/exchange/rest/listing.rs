//! Reads limits and listing, in as many requests as the list of symbols needs.

use tokio_util::sync::CancellationToken;

use super::Rest;
use super::budget::Purpose;
use super::outcome::RestError;
use crate::exchange::{Answer, ExchangeInfo, Request};

/// Longest request line that is sent. Servers accept 8 KiB by default, proxies often less.
const REQUEST_LINE_MAX: usize = 4_096;
/// `GET ` and ` HTTP/1.1` with its line end.
const REQUEST_LINE_REST: usize = 15;

impl Rest {
    /// Limits and listing of these symbols; no symbols means all. The client uses the weight limit from here on, if it
    /// is plausible.
    ///
    /// A list that makes a request too long is divided, and so is one with an unknown symbol: the exchange then refuses
    /// the whole request. Each part costs its own weight.
    pub async fn info(&self, symbols: &[String], stop: &CancellationToken) -> Result<ExchangeInfo, RestError> {
        let mut info = ExchangeInfo::default();
        let mut lists = vec![symbols];
        while let Some(part) = lists.pop() {
            let request = Request::Listing { symbols: part };
            let Some(asked) = self.dialect.ask(&request) else { return Ok(info) };
            let line = self.base.len() + asked.path.len() + REQUEST_LINE_REST;
            let (first, second) = part.split_at(part.len() / 2);
            if line > REQUEST_LINE_MAX {
                match part {
                    [name] => info.unlisted.push(name.clone()),
                    _ => lists.extend([second, first]),
                }
                continue;
            }
            let read = match self.ask(&request, Purpose::Query, stop).await {
                Ok((Answer::Listing(read), _)) => read,
                Ok(_) => return Err(self.mismatch()),
                Err(RestError::UnknownSymbol { .. }) if part.len() > 1 => {
                    lists.extend([second, first]);
                    continue;
                }
                Err(RestError::UnknownSymbol { .. }) => {
                    info.unlisted.extend_from_slice(part);
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.merge(&mut info, read, asked.weight);
        }
        Ok(info)
    }

    fn merge(&self, info: &mut ExchangeInfo, mut part: ExchangeInfo, weight: u32) {
        if let Some(limit) = part.weight_per_minute {
            if self.budget().set_limit(limit, weight) {
                info.weight_per_minute = Some(limit);
            } else {
                let kept = self.budget().limit();
                part.unreadable.push(format!("the weight limit {limit} is not plausible, {kept} stays in use"));
            }
        }
        info.symbols.append(&mut part.symbols);
        for why in part.unreadable {
            // Every part repeats the limits.
            if !info.unreadable.contains(&why) {
                info.unreadable.push(why);
            }
        }
    }
}
