//! Which rows of a list are asked for.

use clap::Args as Group;

/// Which namespaces, and which of what is in them.
#[derive(Clone, Debug, Default, Group)]
pub(crate) struct Scope {
    /// Only what is in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// What is in every namespace, which is the default; wins over --namespace
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only what has these labels: KEY=VALUE,KEY!=VALUE,KEY in (A,B),!KEY. The cluster is asked who has them
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
    /// Only rows with these values, by the keys of -o json: KEY=VALUE,KEY!=VALUE (dst.service=web)
    #[arg(long, value_name = "FIELDS")]
    pub(crate) field_selector: Option<String>,
}

impl Scope {
    /// The one namespace that is asked for.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|_| !self.all_namespaces)
    }

    /// Whether something of this namespace is asked for.
    pub(crate) fn covers(&self, namespace: Option<&str>) -> bool {
        self.namespace().is_none_or(|wanted| namespace == Some(wanted))
    }
}
