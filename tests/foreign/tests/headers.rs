//! Promise: what Weft says on the wire beside bytes is what is recorded in this package, field by field; and it takes what
//! other peers are known to say.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foreign::app::{App, dial, echo, send_back};
use foreign::recorded::{Fields, Recorded, Request, compare, filled, seen, settings};
use foreign::{Cast, Client, Manner};
use futures_util::FutureExt;
use http::Method;
use lab::Lab;
use lab::row::Table;
use serde::de::DeserializeOwned;

const TEST: &str = "what_is_said_is_what_is_recorded";
const REQUEST: &str = include_str!("../recorded/weft_request.json");
const ANSWERS: &str = include_str!("../recorded/weft_answers.json");
const SETTINGS: &str = include_str!("../recorded/weft_settings.json");
const OTHERS: &str = include_str!("../recorded/other_requests.json");

#[test]
fn what_is_said_is_what_is_recorded() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(what_is_recorded);
}

fn what_is_recorded(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let mut table = Table::new(TEST);
    for (family, address) in [("IPv4", IpAddr::from(cast.foreign.v4())), ("IPv6", cast.foreign.v6().into())] {
        table.row(&format!("the request that Weft sends, {family}"), || sent(&cast, address));
    }
    let client = cast.call(cast.server.v4())?;
    for answer in read::<Vec<Recorded>>(ANSWERS)? {
        table.row(&format!("the answer that Weft gives: {}", answer.name), || {
            answered(&cast, &client, &answer)
        });
    }
    for request in read::<Vec<Request>>(OTHERS)? {
        table.row(&format!("Weft takes {}", request.name), || taken(lab, &cast, &client, &request));
    }
    table.finish();
    Ok(())
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).context("a recorded file")
}

fn sent(cast: &Cast, address: IpAddr) -> Result<String> {
    let server = cast.host(Manner::default(), |arrival| send_back(arrival).boxed())?;
    let target = SocketAddr::new(address, 7777);
    let app = dial(&cast.client, target)?;
    echo(&app, b"hello")?;
    let arrivals = server.arrivals();
    let head = arrivals.first().context("no CONNECT")?;
    let mut fields: Fields = seen(&head.headers);
    fields.insert((":method".into(), head.method.to_string()));
    for (name, value) in [
        (":scheme", head.uri.scheme_str()),
        (":authority", head.uri.authority().map(|authority| authority.as_str())),
        (":path", head.uri.path_and_query().map(|path| path.as_str())),
    ] {
        fields.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    let holes = BTreeMap::from([("target", target.to_string()), ("client", app.local_addr()?.to_string())]);
    compare(&fields, &filled(&read::<Recorded>(REQUEST)?.fields, &holes))?;
    compare(&settings(&server.heard())?, &filled(&read::<Recorded>(SETTINGS)?.fields, &holes))?;
    server.stop()?;
    Ok(format!("{} fields", fields.len()))
}

fn answered(cast: &Cast, client: &Client, recorded: &Recorded) -> Result<String> {
    let app = App::start(&cast.server)?;
    let own = cast.server.v4();
    let (method, target) = match recorded.name.as_str() {
        "accepted" => (Method::CONNECT, app.at(own).to_string()),
        "nobody listens" => (Method::CONNECT, format!("{own}:9")),
        "not this pod's" => (Method::CONNECT, format!("{}:80", cast.client.v4())),
        "no address" => (Method::CONNECT, "server.shop:80".to_owned()),
        "no CONNECT" => (Method::GET, format!("https://{own}/")),
        other => anyhow::bail!("no request leads to {other:?}"),
    };
    let answer =
        cast.runtime.block_on(async { client.request(method, &target, &[]).await?.answer().await })?;
    let mut fields = seen(&answer.headers);
    fields.insert((":status".into(), answer.status.to_string()));
    compare(&fields, &filled(&recorded.fields, &BTreeMap::new()))?;
    Ok(format!("{}", answer.status))
}

fn taken(lab: &Lab, cast: &Cast, client: &Client, request: &Request) -> Result<String> {
    const PORT: u16 = 40_123;
    let host = App::start(&cast.server)?;
    let holes = BTreeMap::from([
        ("address", cast.caller.v4().to_string()),
        ("client", SocketAddr::new(cast.caller.v4().into(), PORT).to_string()),
        ("long", "l".repeat(8 << 10)),
    ]);
    let fill = |value: &String| {
        holes.iter().fold(value.clone(), |value, (name, what)| value.replace(&format!("{{{name}}}"), what))
    };
    // Latin-1, so that a file of JSON can hold bytes that are no UTF-8.
    let bytes = |value: &String| fill(value).chars().map(|c| c as u32 as u8).collect::<Vec<u8>>();
    let fields: Vec<(&str, Vec<u8>)> =
        request.fields.iter().map(|(name, value)| (name.as_str(), bytes(value))).collect();
    let fields: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (*name, value.as_slice())).collect();
    let target = host.at(cast.server.v4());
    let mut stream =
        cast.runtime.block_on(async { client.ask(&target.to_string(), &fields).await?.accepted().await })?;
    let app = host.accept()?;
    cast.runtime.block_on(stream.say(&b"hello"[..]))?;
    foreign::app::expect(&app, b"hello")?;
    // From a process of the pod the kernel would answer with the client's address; the agent's table says the same.
    let row = lab::eventually(Duration::from_secs(5), || {
        let rows = lab.agent("b").connections().map_err(|error| format!("{error:#}"))?;
        let found = rows.iter().find(|row| row["dst"]["addr"] == target.to_string()).cloned();
        found.ok_or_else(|| format!("{rows:?}"))
    })?;
    let who = cast.identity(&cast.caller);
    ensure!(row["src"]["identity"] == who.as_str() && row["src"]["name"] == "caller", "{row}");
    let from: SocketAddr = row["src"]["addr"].as_str().context("no address")?.parse()?;
    ensure!(from.ip() == IpAddr::from(cast.caller.v4()), "{row}");
    ensure!((from.port() == PORT) == request.tells_port, "{row}");
    Ok(from.to_string())
}
