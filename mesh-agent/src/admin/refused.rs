//! `GET /v1/refusals?after=SEQ&limit=N`: the last connections that were refused or cut.

use mesh_telemetry::http::Response;

use super::query;
use crate::connections::Refusals;

#[cfg(test)]
mod tests;

/// The answer to a query as it was sent.
pub(super) fn answer(refusals: &Refusals, node: &str, asked: Option<&str>) -> Response {
    let limit = query(asked, "limit").map(str::parse::<u64>).transpose();
    let after = query(asked, "after").map(|after| own(after, node)).transpose();
    let (Ok(after), Ok(limit)) = (after.map(Option::flatten), limit) else {
        return Response::bad_request(
            "the query is after=SEQ (or NODE:SEQ,NODE:SEQ) and limit=N, all numbers",
        );
    };
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    Response::json(&refusals.rows(node, after, limit))
}

/// The number that is asked for here: `12`, or this node's among `a:12,b:44`, so that one question will do for all nodes.
fn own(after: &str, node: &str) -> Result<Option<u64>, std::num::ParseIntError> {
    if !after.contains(':') {
        return after.parse().map(Some);
    }
    let mut each = after.split(',').filter_map(|one| one.rsplit_once(':'));
    each.find(|(name, _)| *name == node).map(|(_, number)| number.parse()).transpose()
}
