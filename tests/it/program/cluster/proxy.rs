//! A proxy between the recorder and ClickHouse that fails on demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Faults that are still to happen.
#[derive(Default)]
struct Faults {
    /// Inserts that the proxy answers with HTTP 500 and does not forward.
    refuse: AtomicU32,
    /// Inserts that the proxy forwards and whose answer it cuts off.
    cut: AtomicU32,
}

/// The proxy. It ends with the test's runtime.
pub struct Proxy {
    pub port: u16,
    faults: Arc<Faults>,
}

impl Proxy {
    /// Starts a proxy for the server on this port.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults::default());
        let shared = faults.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let faults = shared.clone();
                tokio::spawn(async move {
                    if let Err(error) = forward(client, server, &faults).await {
                        eprintln!("the proxy: {error}");
                    }
                });
            }
        });
        Self { port, faults }
    }

    /// Refuses the next inserts with HTTP 500.
    pub fn refuse(&self, inserts: u32) {
        self.faults.refuse.store(inserts, Ordering::Relaxed);
    }

    /// Forwards the next inserts and cuts off their answers.
    pub fn cut(&self, inserts: u32) {
        self.faults.cut.store(inserts, Ordering::Relaxed);
    }

    /// Faults that have not happened yet.
    pub fn remaining(&self) -> u32 {
        self.faults.refuse.load(Ordering::Relaxed) + self.faults.cut.load(Ordering::Relaxed)
    }
}

/// Decrements a counter; false when it is zero.
fn take_one(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

async fn forward(mut client: TcpStream, server: u16, faults: &Faults) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut from_client, mut from_server) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut cuts = false;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let count = read?;
                if count == 0 {
                    return Ok(());
                }
                if is_insert(&from_client[..count]) {
                    if take_one(&faults.refuse) {
                        return refuse(client).await;
                    }
                    cuts = take_one(&faults.cut);
                }
                upstream.write_all(&from_client[..count]).await?;
            }
            read = upstream.read(&mut from_server) => {
                let count = read?;
                // The server has executed the insert when it answers.
                if count == 0 || cuts {
                    return Ok(());
                }
                client.write_all(&from_server[..count]).await?;
            }
        }
    }
}

/// Whether these bytes begin an insert into `trades`: the statement is in the URL.
fn is_insert(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.starts_with("POST ") && line.contains("INSERT") && line.contains("trades")
}

async fn refuse(mut client: TcpStream) -> std::io::Result<()> {
    // Reads what the client still sends: otherwise it would see a reset instead of the answer.
    let mut rest = vec![0; 64 << 10];
    while let Ok(Ok(1..)) = tokio::time::timeout(Duration::from_millis(50), client.read(&mut rest)).await {}
    client.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops").await
}
