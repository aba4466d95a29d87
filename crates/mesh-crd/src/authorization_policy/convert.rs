//! From the object to the model's policy: names become patterns, references become reaches or selectors.
//!
//! Strict: what cannot be meant is an error that names the field. What can be meant and probably is not (a pattern that no
//! identity of the mesh can have) is a warning.

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use mesh_model::policy::{
    Action, Condition, IdentityPattern, IpBlock, Mode, Policy, PolicyKey, Reach, Rule, Source,
};
use mesh_model::{ServiceKey, TrustDomain};

use super::{
    AuthorizationPolicy, AuthorizationRule, AuthorizationSource, IpBlockRef, NegatedSource, PolicyAction,
    PolicyMode, ServiceAccountRef, SourceType, TargetKind, TargetRef,
};

/// A policy that can be in force, and what it targets beside its reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Authored {
    /// What agents are told.
    pub policy: Policy,
    /// Pods that are to list it.
    pub targets: Vec<Target>,
    /// Of the object.
    pub generation: Option<i64>,
    /// What is probably not what was meant.
    pub warnings: Vec<String>,
}

/// There is nothing in it that is not equal to itself: numbers are whole.
impl Eq for Authored {}

/// Pods that are to list a policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Those that meet a selector.
    Pods(Within, LabelSelector),
    /// Those of a Service of the policy's namespace.
    Service(ServiceKey),
}

/// Where pods are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Within {
    /// In one namespace.
    Namespace(String),
    /// In all.
    Mesh,
}

/// Why a policy cannot be in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct PolicyError {
    /// Which field.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub what: String,
}

fn wrong(field: &str, what: impl Into<String>) -> PolicyError {
    PolicyError { field: field.into(), what: what.into() }
}

/// A source's conditions, negated or not.
struct Terms<'a> {
    source_type: Option<SourceType>,
    spiffe: Option<&'a String>,
    service_account: Option<&'a ServiceAccountRef>,
    namespace: Option<&'a String>,
    ip_block: Option<&'a IpBlockRef>,
}

/// What names are read against.
struct Context<'a> {
    namespace: &'a str,
    trust_domain: &'a TrustDomain,
}

impl AuthorizationPolicy {
    /// What it says. `release_namespace`: whose policies are about the whole mesh.
    pub fn authored(
        &self,
        trust_domain: &TrustDomain,
        release_namespace: &str,
    ) -> Result<Authored, PolicyError> {
        let namespace = match self.metadata.namespace.as_deref() {
            None | Some("") => "default",
            Some(namespace) => namespace,
        };
        let name = self.metadata.name.as_deref().unwrap_or_default();
        for (field, text) in [("metadata.name", name), ("metadata.namespace", namespace)] {
            name_of(field, text)?;
        }
        let mesh_wide = namespace == release_namespace;
        let (mut reach, mut targets) = (Reach::default(), Vec::new());
        if self.spec.target_refs.is_empty() {
            return Err(wrong(
                "spec.targetRefs",
                "name at least one target; all pods of the namespace are {kind: Pod, selector: {}}",
            ));
        }
        for (at, target) in self.spec.target_refs.iter().enumerate() {
            let field = format!("spec.targetRefs[{at}]");
            read_target(target, &field, namespace, mesh_wide, &mut reach, &mut targets)?;
        }
        let context = Context { namespace, trust_domain };
        let rules = &self.spec.rules;
        let rules: Vec<Rule> = (0..)
            .zip(rules)
            .map(|(at, rule)| context.rule(rule, &format!("spec.rules[{at}]")))
            .collect::<Result<_, _>>()?;
        let policy = Policy {
            key: PolicyKey::new(namespace, name),
            reach,
            action: match self.spec.action {
                PolicyAction::Allow => Action::Allow,
                PolicyAction::Deny => Action::Deny,
            },
            mode: match self.spec.mode {
                PolicyMode::Enforce => Mode::Enforce,
                PolicyMode::Audit => Mode::Audit,
            },
            rules,
        };
        let warnings = warnings(&policy);
        Ok(Authored { policy, targets, generation: self.metadata.generation, warnings })
    }
}

fn read_target(
    target: &TargetRef,
    field: &str,
    namespace: &str,
    mesh_wide: bool,
    reach: &mut Reach,
    targets: &mut Vec<Target>,
) -> Result<(), PolicyError> {
    let sub = |name: &str| format!("{field}.{name}");
    if !target.group.is_empty() {
        return Err(wrong(
            &sub("group"),
            format!("{:?} has nothing that can be targeted: leave it empty", target.group),
        ));
    }
    if target.selector.is_some() && target.kind != TargetKind::Pod {
        return Err(wrong(&sub("selector"), "only kind Pod is selected by labels"));
    }
    if target.name.is_some() && target.kind == TargetKind::Pod {
        return Err(wrong(&sub("name"), "Pods are selected by labels: write a selector"));
    }
    if let Some(name) = &target.name {
        name_of(&sub("name"), name)?;
    }
    match (target.kind, &target.name, &target.selector) {
        (TargetKind::Pod, _, None) => {
            Err(wrong(&sub("selector"), "is missing: {} selects all pods, {matchLabels: {app: web}} some"))
        }
        (TargetKind::Pod, _, Some(selector)) => {
            check_selector(selector, &sub("selector"))?;
            let all = selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
                && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
            match (all, mesh_wide) {
                (true, true) => reach.mesh = true,
                (true, false) => add(&mut reach.namespaces, namespace),
                (false, true) => targets.push(Target::Pods(Within::Mesh, selector.clone())),
                (false, false) => {
                    targets.push(Target::Pods(Within::Namespace(namespace.into()), selector.clone()));
                }
            }
            Ok(())
        }
        (TargetKind::Service, None, _) => Err(wrong(&sub("name"), "is missing: name the Service")),
        (TargetKind::Service, Some(name), _) => {
            targets.push(Target::Service(ServiceKey::new(namespace, name)));
            Ok(())
        }
        (TargetKind::Namespace, None, _) if mesh_wide => {
            reach.mesh = true;
            Ok(())
        }
        (TargetKind::Namespace, Some(name), _) if mesh_wide || name == namespace => {
            add(&mut reach.namespaces, name);
            Ok(())
        }
        (TargetKind::Namespace, None, _) => {
            add(&mut reach.namespaces, namespace);
            Ok(())
        }
        (TargetKind::Namespace, Some(name), _) => Err(wrong(
            &sub("name"),
            format!(
                "a policy of namespace {namespace} is about its own pods, not about those of {name}: put it there"
            ),
        )),
    }
}

fn add(namespaces: &mut Vec<std::sync::Arc<str>>, name: &str) {
    if !namespaces.iter().any(|known| **known == *name) {
        namespaces.push(name.into());
    }
}

/// A selector with an operator that nobody knows would select nobody, in silence.
pub(crate) fn check_selector(selector: &LabelSelector, field: &str) -> Result<(), PolicyError> {
    for (at, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let field = format!("{field}.matchExpressions[{at}]");
        let values = expression.values.as_ref().map_or(0, Vec::len);
        match expression.operator.as_str() {
            "In" | "NotIn" if values == 0 => {
                return Err(wrong(
                    &format!("{field}.values"),
                    format!("{} needs values", expression.operator),
                ));
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                return Err(wrong(
                    &format!("{field}.values"),
                    format!("{} takes no values", expression.operator),
                ));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let what = format!("{other:?} is none of In, NotIn, Exists and DoesNotExist");
                return Err(wrong(&format!("{field}.operator"), what));
            }
        }
    }
    Ok(())
}

impl Context<'_> {
    fn rule(&self, rule: &AuthorizationRule, field: &str) -> Result<Rule, PolicyError> {
        let sources = rule.sources.as_ref().map(|sources| {
            (0..)
                .zip(sources)
                .map(|(at, source)| self.source(source, &format!("{field}.sources[{at}]")))
                .collect::<Result<Vec<_>, _>>()
        });
        let ports = rule.network_attributes.as_ref().and_then(|attributes| attributes.ports.as_ref());
        if ports.is_some_and(Vec::is_empty) {
            let field = format!("{field}.networkAttributes.ports");
            return Err(wrong(&field, "is empty: leave it out for any port"));
        }
        let ports = (0..).zip(ports.into_iter().flatten()).map(|(at, port)| {
            let field = format!("{field}.networkAttributes.ports[{at}]");
            port.range().map_err(|error| wrong(&field, error.to_string()))
        });
        Ok(Rule {
            sources: sources.transpose()?,
            ports: ports.collect::<Result<_, _>>()?,
            layer7: rule.http_attributes.is_some(),
        })
    }

    fn source(&self, source: &AuthorizationSource, field: &str) -> Result<Source, PolicyError> {
        let all = self.terms(&source.into(), field)?;
        if all.is_empty() && source.not.is_empty() {
            return Err(wrong(
                field,
                "says nothing: set spiffe, serviceAccount, namespace, ipBlock or not; leave sources out for anybody",
            ));
        }
        let mut none = Vec::with_capacity(source.not.len());
        for (at, negated) in source.not.iter().enumerate() {
            let field = format!("{field}.not[{at}]");
            let terms = self.terms(&negated.into(), &field)?;
            if terms.is_empty() {
                return Err(wrong(&field, "says nothing: set spiffe, serviceAccount, namespace or ipBlock"));
            }
            none.push(terms);
        }
        Ok(Source { all, none })
    }

    fn terms(&self, terms: &Terms<'_>, field: &str) -> Result<Vec<Condition>, PolicyError> {
        let sub = |name: &str| format!("{field}.{name}");
        let mut conditions = Vec::new();
        if let Some(spiffe) = terms.spiffe {
            let pattern: IdentityPattern = spiffe
                .parse()
                .map_err(|error: mesh_model::policy::NotAPattern| wrong(&sub("spiffe"), error.to_string()))?;
            conditions.push(Condition::Identity(pattern));
        }
        if let Some(account) = terms.service_account {
            let namespace = account.namespace.as_deref().unwrap_or(self.namespace);
            name_of(&sub("serviceAccount.namespace"), namespace)?;
            let name = (account.name != "*").then_some(account.name.as_str());
            if let Some(name) = name {
                name_of(&sub("serviceAccount.name"), name)?;
            }
            conditions.push(Condition::Identity(IdentityPattern::account(
                self.trust_domain,
                namespace,
                name,
            )));
        }
        if let Some(namespace) = terms.namespace {
            name_of(&sub("namespace"), namespace)?;
            conditions.push(Condition::Identity(IdentityPattern::account(
                self.trust_domain,
                namespace,
                None,
            )));
        }
        if let Some(block) = terms.ip_block {
            conditions.push(Condition::Address(ip_block(block, &sub("ipBlock"))?));
        }
        let said = match terms.source_type {
            None => true,
            Some(SourceType::Spiffe) => terms.spiffe.is_some(),
            Some(SourceType::ServiceAccount) => terms.service_account.is_some(),
            Some(SourceType::Namespace) => terms.namespace.is_some(),
            Some(SourceType::IpBlock) => terms.ip_block.is_some(),
        };
        match said {
            true => Ok(conditions),
            false => Err(wrong(&sub("type"), "names a condition that is not set")),
        }
    }
}

fn ip_block(block: &IpBlockRef, field: &str) -> Result<IpBlock, PolicyError> {
    let read = |field: &str, text: &str| {
        let net = text.parse::<IpNet>().map(|net| net.trunc());
        net.map_err(|_| wrong(field, format!("{text:?} is no CIDR: write 10.0.0.0/8 or fd00::/8")))
    };
    let net = read(&format!("{field}.cidr"), &block.cidr)?;
    let mut except = Vec::with_capacity(block.except.len());
    for (at, text) in block.except.iter().enumerate() {
        let field = format!("{field}.except[{at}]");
        let one = read(&field, text)?;
        if !net.contains(&one) {
            return Err(wrong(&field, format!("{text} is not in {}", block.cidr)));
        }
        except.push(one);
    }
    Ok(IpBlock { net, except })
}

/// RFC 1123 subdomain.
fn name_of(field: &str, name: &str) -> Result<(), PolicyError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    if bytes.len() <= 253 && bytes.iter().copied().all(inner) && edge(bytes.first()) && edge(bytes.last()) {
        return Ok(());
    }
    Err(wrong(
        field,
        format!(
            "{name:?} is no name: lower-case letters, digits, '-' and '.', at most 253 of them (RFC 1123)"
        ),
    ))
}

fn warnings(policy: &Policy) -> Vec<String> {
    let mut warnings = Vec::new();
    for (at, rule) in policy.rules.iter().enumerate() {
        for (number, source) in rule.sources.iter().flatten().enumerate() {
            let patterns = source.all.iter().chain(source.none.iter().flatten());
            for pattern in patterns.filter_map(|condition| match condition {
                Condition::Identity(pattern) if pattern.never_matches() => Some(pattern),
                _ => None,
            }) {
                warnings.push(format!(
                    "spec.rules[{at}].sources[{number}]: {pattern} matches nobody: identities of this mesh have the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"
                ));
            }
        }
        if rule.layer7 {
            let effect = match policy.action {
                Action::Allow => "matches nothing",
                Action::Deny => "matches as if they were met",
            };
            warnings.push(format!(
                "spec.rules[{at}].httpAttributes: no waypoint looks at them; the rule {effect}"
            ));
        }
    }
    if policy.never_matches() {
        let effect = match policy.action {
            Action::Allow => "nothing is admitted by it, and what no other ALLOW policy admits is refused",
            Action::Deny => "nothing is refused by it",
        };
        warnings.push(format!("spec.rules: no rule can match any peer: {effect}"));
    }
    warnings
}

impl<'a> From<&'a AuthorizationSource> for Terms<'a> {
    fn from(source: &'a AuthorizationSource) -> Self {
        let AuthorizationSource { source_type, spiffe, service_account, namespace, ip_block, .. } = source;
        Self {
            source_type: *source_type,
            spiffe: spiffe.as_ref(),
            service_account: service_account.as_ref(),
            namespace: namespace.as_ref(),
            ip_block: ip_block.as_ref(),
        }
    }
}

impl<'a> From<&'a NegatedSource> for Terms<'a> {
    fn from(source: &'a NegatedSource) -> Self {
        let NegatedSource { source_type, spiffe, service_account, namespace, ip_block } = source;
        Self {
            source_type: *source_type,
            spiffe: spiffe.as_ref(),
            service_account: service_account.as_ref(),
            namespace: namespace.as_ref(),
            ip_block: ip_block.as_ref(),
        }
    }
}
