//! The page's buttons: forms that work without JavaScript and need the same permission as the API.

use reqwest::header::{CONTENT_TYPE, LOCATION, ORIGIN};

use super::{Served, document};
use crate::admin::AdminOptions;

/// The request that a browser sends for a button.
fn submit(served: &Served, form: &str) -> reqwest::RequestBuilder {
    let request = served.http.post(served.url("/do")).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    request.header(ORIGIN, format!("http://{}", served.address)).body(form.to_owned())
}

/// The result that the page shows after the redirect.
async fn result_of(served: &Served, form: &str) -> String {
    let answer = submit(served, form).send().await.unwrap();
    assert_eq!(answer.status(), 200, "the client has followed the redirect");
    assert!(answer.url().query().is_some_and(|query| query.starts_with("result=")), "{}", answer.url());
    let page = answer.text().await.unwrap();
    let from = page.find("<div id=\"result\" role=\"status\">").expect("the page has an element for results");
    let result = &page[from..page[from..].find("</div>").map_or(page.len(), |end| from + end)];
    result.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_that_a_job_ran_paused_and_resumed() {
    let served = Served::start().await;
    let answer = result_of(&served, "do=run+state-snapshot").await;
    assert!(answer.contains("class=\"good\"") && answer.contains("state-snapshot ran and succeeded"), "{answer}");
    let answer = result_of(&served, "do=pause+state-snapshot").await;
    assert!(answer.contains("state-snapshot is paused"), "{answer}");
    // At once, although a rendering is reused for a second.
    let page = served.text("/").await;
    assert!(page.contains("value=\"resume state-snapshot\"") && page.contains("paused: from the status page"));
    assert_eq!(served.get("/api/v1/jobs").await.1[0]["paused"], true);
    result_of(&served, "do=resume+state-snapshot").await;
    assert_eq!(served.get("/api/v1/jobs").await.1[0]["paused"], false);
    assert!(served.text("/").await.contains("value=\"pause state-snapshot\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_reports_its_counts() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", 1..=8).await;
    let answer = result_of(&served, "do=repair").await;
    assert!(answer.contains("2 entries were compared, 1 repaired"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_action_changes_nothing_and_is_reported() {
    let served = Served::start().await;
    for (form, words) in [
        ("do=run+nothing", "did not run: there is no job `nothing`"),
        ("do=pause+nothing", "there is no job `nothing`"),
        ("do=explode", "`explode` is not run, pause, resume or repair"),
        ("do=run+%3Cscript%3E", "&lt;script&gt; did not run"),
    ] {
        let answer = result_of(&served, form).await;
        assert!(answer.contains("class=\"bad\"") && answer.contains(words), "{form}: {answer}");
    }
    served.faults.set_outage(true);
    let answer = result_of(&served, "do=repair").await;
    assert!(answer.contains("the action failed"), "{answer}");
    let (status, answer) = document(submit(&served, "nothing=1")).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (400, Some("bad_request")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_cannot_put_text_on_the_page() {
    let served = Served::start().await;
    for query in ["result=All+is+well", "result=", "other=1", "result=%FF"] {
        let page = served.text(&format!("/?{query}")).await;
        assert!(page.contains("<div id=\"result\" role=\"status\"></div>"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_cannot_submit_a_form() {
    let served = Served::start().await;
    let form = "do=pause+state-snapshot";
    for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let request = served.http.post(served.url("/do")).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let (status, answer) = document(request.header(name, value).body(form)).await;
        assert_eq!((status, answer["error"]["code"].as_str()), (403, Some("cross_site")), "{name}: {value}");
    }
    assert_eq!(served.get("/api/v1/jobs").await.1[0]["paused"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_a_form_needs_the_right_token() {
    let listen = "0.0.0.0:8081".parse().unwrap();
    let options = AdminOptions { listen, token: Some("s&cret".to_owned()), socket: None };
    let served = Served::with(options, &["binance:BTCUSDT:trade"]).await;
    let page = served.text("/").await;
    assert!(page.contains("name=\"token\" type=\"password\"") && page.contains("every button needs it"), "{page}");
    assert!(!page.contains("s&cret") && !page.contains("s&amp;cret"));
    for (token, words) in [("", "this needs the admin token"), ("wrong", "the admin token is not right")] {
        let answer = result_of(&served, &format!("do=pause+state-snapshot&token={token}")).await;
        assert!(answer.contains(words), "{answer}");
        assert_eq!(served.get("/api/v1/jobs").await.1[0]["paused"], false);
    }
    let answer = result_of(&served, "do=pause+state-snapshot&token=s%26cret").await;
    assert!(answer.contains("state-snapshot is paused"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_there_are_no_buttons_without_a_token() {
    let options = AdminOptions { listen: "0.0.0.0:8081".parse().unwrap(), token: None, socket: None };
    let served = Served::with(options, &["binance:BTCUSDT:trade"]).await;
    let page = served.text("/").await;
    assert!(!page.contains("<button") && page.contains("set admin-token to allow it"), "{page}");
    let answer = result_of(&served, "do=pause+state-snapshot&token=").await;
    assert!(answer.contains("this needs the admin token"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_answers_with_a_redirect_to_get() {
    let served = Served::start().await;
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let http = http.tls_backend_preconfigured((*crate::exchange::tls_config()).clone()).build().unwrap();
    let request = http.post(served.url("/do")).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let answer = request.body("do=run+state-snapshot").send().await.unwrap();
    assert_eq!(answer.status(), 303);
    assert!(answer.headers()[LOCATION].to_str().unwrap().starts_with("/?result="));
}
