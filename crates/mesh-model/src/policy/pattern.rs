//! Patterns of identities: `spiffe://cluster.local/ns/shop/sa/*`.
//!
//! A part is a name, `*`, `web-*` or `*-web`. A pattern that ends in `/*` early (`spiffe://cluster.local/*`) holds all that is
//! below. A SPIFFE ID of another form than the mesh's can be written and matches nobody.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Identity, TrustDomain};

/// Of one part of an identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pattern {
    /// Anything.
    Any,
    /// This.
    Exact(Arc<str>),
    /// What begins so.
    Prefix(Arc<str>),
    /// What ends so.
    Suffix(Arc<str>),
}

/// Of an identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdentityPattern {
    trust_domain: Pattern,
    /// Namespace and service account; `None`: of a form that no identity of the mesh has.
    workload: Option<(Pattern, Pattern)>,
    /// The rest as it was written, where it is of another form.
    foreign: Arc<str>,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPattern {
    /// Another scheme, or nothing behind it.
    #[error(
        "{0:?} is no SPIFFE ID: write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, with * where any will do"
    )]
    Form(String),
    /// A star where none may be.
    #[error("{0:?}: a * stands alone between two slashes, or at the beginning or end of a part")]
    Star(String),
}

impl Pattern {
    /// Reads one part.
    fn new(text: &str) -> Option<Self> {
        Some(match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Self::Any,
            (Some(rest), None) => Self::Suffix(rest.into()),
            (None, Some(rest)) => Self::Prefix(rest.into()),
            (None, None) => Self::Exact(text.into()),
            (Some(_), Some(_)) => return None,
        })
        .filter(|pattern| !matches!(pattern, Self::Exact(rest) | Self::Prefix(rest) | Self::Suffix(rest) if rest.contains('*') || rest.is_empty()))
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => **name == *text,
            Self::Prefix(start) => text.starts_with(&**start),
            Self::Suffix(end) => text.ends_with(&**end),
        }
    }
}

impl IdentityPattern {
    /// A service account of a trust domain; `None`: all of the namespace.
    pub fn account(trust_domain: &TrustDomain, namespace: &str, name: Option<&str>) -> Self {
        let account = name.map_or(Pattern::Any, |name| Pattern::Exact(name.into()));
        Self {
            trust_domain: Pattern::Exact(trust_domain.as_str().into()),
            workload: Some((Pattern::Exact(namespace.into()), account)),
            foreign: "".into(),
        }
    }

    /// Whether an identity fits.
    pub fn matches(&self, identity: &Identity) -> bool {
        let Some((namespace, account)) = &self.workload else { return false };
        self.trust_domain.matches(identity.trust_domain().as_str())
            && namespace.matches(identity.namespace())
            && account.matches(identity.service_account())
    }

    /// Whether it is of a form that no identity of the mesh has.
    pub fn never_matches(&self) -> bool {
        self.workload.is_none()
    }

    /// The namespace that it names, if it names one.
    pub fn namespace(&self) -> Option<&str> {
        match &self.workload {
            Some((Pattern::Exact(namespace), _)) => Some(namespace),
            _ => None,
        }
    }

    /// The service account that it names, if it names one.
    pub fn service_account(&self) -> Option<&str> {
        match &self.workload {
            Some((_, Pattern::Exact(account))) => Some(account),
            _ => None,
        }
    }

    /// The trust domain that it names, if it names one.
    pub fn trust_domain(&self) -> Option<&str> {
        match &self.trust_domain {
            Pattern::Exact(domain) => Some(domain),
            _ => None,
        }
    }
}

impl FromStr for IdentityPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || NotAPattern::Form(text.into());
        let part = |part: &str| Pattern::new(part).ok_or_else(|| NotAPattern::Star(text.into()));
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let (domain, path) = rest.split_once('/').ok_or_else(form)?;
        if domain.is_empty() || path.is_empty() || path.split('/').any(str::is_empty) {
            return Err(form());
        }
        let trust_domain = part(domain)?;
        for one in path.split('/') {
            part(one)?;
        }
        let workload = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["*"] | ["ns", "*"] => Some((Pattern::Any, Pattern::Any)),
            ["ns", namespace, "*"] => Some((part(namespace)?, Pattern::Any)),
            ["ns", namespace, "sa", account] => Some((part(namespace)?, part(account)?)),
            _ => None,
        };
        let foreign = if workload.is_none() { path.into() } else { "".into() };
        Ok(Self { trust_domain, workload, foreign })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.workload {
            Some((namespace, account)) => {
                write!(f, "spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain)
            }
            None => write!(f, "spiffe://{}/{}", self.trust_domain, self.foreign),
        }
    }
}

impl TryFrom<String> for IdentityPattern {
    type Error = NotAPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<IdentityPattern> for String {
    fn from(pattern: IdentityPattern) -> Self {
        pattern.to_string()
    }
}
