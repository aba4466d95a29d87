use mesh_telemetry::preflight::CheckStatus::{Fail, Warn};

use super::*;

#[test]
fn a_node_that_is_not_checked_is_said_to_be_unless_there_is_none() {
    let status = |failure: Failure| unchecked(&failure).map(|check| check.map(|check| check.status));
    let no_preflight = |client| Failure::NoPreflight { client };
    let refused = || ClientError::Refused { end: "agent.sock".into(), remedy: "start it" };
    let denied = || ClientError::Denied("agent.sock".into());
    assert_eq!(status(no_preflight(ClientError::NoSocket("agent.sock".into()))), Some(None));
    assert_eq!(status(no_preflight(refused())), Some(Some(Warn)));
    assert_eq!(status(denied().into()), Some(Some(Fail)));
    // Another machine's, and what an agent says itself.
    assert_eq!(status(refused().into()), None);
    assert_eq!(status(ClientError::OneAlone.into()), None);
    assert_eq!(Failure::from(refused()).exit_code(), 3);
    let denied = Failure::from(denied());
    assert!(denied.exit_code() == 1 && denied.to_string().contains("run meshctl as root"), "{denied}");
}
