//! A policy, to the wire and back.

use mesh_model::policy::{
    Action, Condition, IdentityPattern, IpBlock, Mode, NotAPattern, Policy, PolicyKey, Reach, Rule, Source,
};

use super::{Name, Reader, ResourceError, encode_prefix, encode_range, shared, strings};
use crate::proto;
use crate::proto::policy_condition::Condition as Wire;

pub(super) fn encode(policy: &Policy) -> proto::Policy {
    proto::Policy {
        namespace: policy.key.namespace.as_ref().into(),
        name: policy.key.name.as_ref().into(),
        whole_mesh: policy.reach.mesh,
        namespaces: strings(&policy.reach.namespaces),
        action: match policy.action {
            Action::Allow => proto::PolicyAction::Allow,
            Action::Deny => proto::PolicyAction::Deny,
        }
        .into(),
        mode: match policy.mode {
            Mode::Enforce => proto::PolicyMode::Enforce,
            Mode::Audit => proto::PolicyMode::Audit,
        }
        .into(),
        rules: policy.rules.iter().map(encode_rule).collect(),
    }
}

fn encode_rule(rule: &Rule) -> proto::PolicyRule {
    let source = |source: &Source| proto::PolicySource {
        all: source.all.iter().map(encode_condition).collect(),
        none: source
            .none
            .iter()
            .map(|list| proto::PolicyConditions { conditions: list.iter().map(encode_condition).collect() })
            .collect(),
    };
    proto::PolicyRule {
        sources: rule
            .sources
            .as_ref()
            .map(|sources| proto::PolicySources { sources: sources.iter().map(source).collect() }),
        ports: rule.ports.iter().map(encode_range).collect(),
        layer7: rule.layer7,
    }
}

fn encode_condition(condition: &Condition) -> proto::PolicyCondition {
    let condition = match condition {
        Condition::Identity(pattern) => Wire::Identity(pattern.to_string()),
        Condition::Address(block) => Wire::Block(proto::IpBlock {
            net: Some(encode_prefix(&block.net)),
            except: block.except.iter().map(encode_prefix).collect(),
        }),
    };
    proto::PolicyCondition { condition: Some(condition) }
}

pub(super) fn decode(name: &Name, message: proto::Policy) -> Result<Policy, ResourceError> {
    let read = Reader(name);
    let (namespace, own) = (read.text("namespace", &message.namespace)?, read.text("name", &message.name)?);
    let key = PolicyKey::new(namespace, own);
    if *name != Name::Policy(key.clone()) {
        return Err(read.error("name", format!("{key}, of another policy")));
    }
    let action = match proto::PolicyAction::try_from(message.action) {
        Ok(proto::PolicyAction::Allow) => Action::Allow,
        Ok(proto::PolicyAction::Deny) => Action::Deny,
        Ok(proto::PolicyAction::Unspecified) | Err(_) => {
            return Err(read.error("action", format!("{}, unknown", message.action)));
        }
    };
    let mode = match proto::PolicyMode::try_from(message.mode) {
        Ok(proto::PolicyMode::Enforce) => Mode::Enforce,
        Ok(proto::PolicyMode::Audit) => Mode::Audit,
        Ok(proto::PolicyMode::Unspecified) | Err(_) => {
            return Err(read.error("mode", format!("{}, unknown", message.mode)));
        }
    };
    let reach = Reach { mesh: message.whole_mesh, namespaces: shared(&message.namespaces) };
    let rules = message.rules.iter().map(|rule| decode_rule(&read, rule)).collect::<Result<_, _>>()?;
    Ok(Policy { key, reach, action, mode, rules })
}

fn decode_rule(read: &Reader<'_>, rule: &proto::PolicyRule) -> Result<Rule, ResourceError> {
    let source = |source: &proto::PolicySource| {
        let none = source.none.iter().map(|list| conditions(read, &list.conditions));
        Ok::<_, ResourceError>(Source {
            all: conditions(read, &source.all)?,
            none: none.collect::<Result<_, _>>()?,
        })
    };
    let sources = rule.sources.as_ref().map(|list| list.sources.iter().map(source).collect());
    Ok(Rule {
        sources: sources.transpose()?,
        ports: rule.ports.iter().map(|range| read.range("rules.ports", range)).collect::<Result<_, _>>()?,
        layer7: rule.layer7,
    })
}

fn conditions(read: &Reader<'_>, list: &[proto::PolicyCondition]) -> Result<Vec<Condition>, ResourceError> {
    list.iter().map(|condition| decode_condition(read, condition)).collect()
}

fn decode_condition(
    read: &Reader<'_>,
    condition: &proto::PolicyCondition,
) -> Result<Condition, ResourceError> {
    match &condition.condition {
        Some(Wire::Identity(pattern)) => {
            let wrong = |error: NotAPattern| read.error("rules.sources.identity", error.to_string());
            pattern.parse::<IdentityPattern>().map(Condition::Identity).map_err(wrong)
        }
        Some(Wire::Block(block)) => {
            let net = block.net.as_ref().ok_or_else(|| read.error("rules.sources.block.net", "missing"))?;
            let except = block.except.iter().map(|net| read.prefix("rules.sources.block.except", net));
            Ok(Condition::Address(IpBlock {
                net: read.prefix("rules.sources.block.net", net)?,
                except: except.collect::<Result<_, _>>()?,
            }))
        }
        // A condition that is not understood cannot be skipped: the policy would mean something else.
        None => Err(read.error("rules.sources", "a condition of an unknown kind")),
    }
}
