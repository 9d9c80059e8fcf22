//! Joins a running `macula-node dev`: subscribes, publishes, serves and calls.
//!
//! ```sh
//! macula-node dev --join-file join.json
//! cargo run --manifest-path node/examples/join/Cargo.toml -- join.json
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use macula_node::peer::{Delivery, Request};
use macula_node::{Fault, Payload, Peer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).or_else(|| std::env::var("MACULA_JOIN").ok());
    let path = PathBuf::from(path.ok_or("usage: join FILE, as `macula-node dev` prints it")?);
    let peer = Peer::join(&path).await?;
    println!("joined as {}", peer.status().await?.node.name);

    let mut greetings = peer.subscribe("greeting.*".parse()?).await?;
    let count = peer.publish("greeting.world".parse()?, Payload::bytes("hello")).await?;
    println!("published to {count}");
    match greetings.next().await {
        Some(Delivery::Message(message)) => {
            println!("heard {}: {}", message.topic, String::from_utf8_lossy(&message.payload.body));
        }
        Some(Delivery::Gap { missed }) => println!("{missed} messages were lost"),
        None => println!("the mesh is gone"),
    }

    let _serving = peer.advertise("text.upper".parse()?, upper).await?;
    let timeout = Duration::from_secs(2);
    let answer = peer.call("text.upper".parse()?, Payload::bytes("hello"), timeout).await?;
    println!("answered {}", String::from_utf8_lossy(&answer.body));

    peer.leave().await;
    Ok(())
}

async fn upper(request: Request) -> Result<Payload, Fault> {
    Ok(Payload::bytes(request.payload.body.to_ascii_uppercase()))
}
