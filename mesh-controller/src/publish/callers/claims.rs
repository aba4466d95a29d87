//! What a service account token says of itself (RFC 7519, section 4). Nobody has vouched for it: it serves to refuse what
//! can be no good without asking anybody, to give a refusal its right name, and to remember an answer no longer than the
//! token lasts. Who is let in is the API server's word alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use serde::Deserialize;

/// No token of a service account is longer; a longer one is not worth a request.
const LONGEST: usize = 16 << 10;

/// The claims that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) audiences: Vec<String>,
    pub(super) expires: SystemTime,
}

#[derive(Deserialize)]
struct Payload {
    aud: Audience,
    exp: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Claims {
    /// Reads the payload of a JWT: the second of three parts, base64url.
    pub(super) fn of(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        if token.len() > LONGEST {
            return None;
        }
        let mut text = payload.replace('-', "+").replace('_', "/");
        while text.len() % 4 != 0 {
            text.push('=');
        }
        let bytes: ByteString = serde_json::from_value(text.into()).ok()?;
        let Payload { aud, exp } = serde_json::from_slice(&bytes.0).ok()?;
        let audiences = match aud {
            Audience::One(one) => vec![one],
            Audience::Several(several) => several,
        };
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(exp))?;
        Some(Self { audiences, expires })
    }
}
