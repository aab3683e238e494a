//! Kubernetes' LabelSelector (`k8s.io/apimachinery/pkg/apis/meta/v1`): exact labels, and expressions over them. All must hold; an
//! empty one selects everything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go_json::null_as_default;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// At least one for `In` and `NotIn`, none for the others.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether labels, by what `of` finds under a key, are selected. An absent label satisfies `NotIn`.
    pub fn matches<'a>(&self, of: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.match_labels.iter().all(|(key, value)| of(key) == Some(value))
            && self.match_expressions.iter().all(|r| r.holds(of(&r.key)))
    }
}

impl Requirement {
    fn holds(&self, label: Option<&str>) -> bool {
        let is_in = || label.is_some_and(|l| self.values.iter().any(|v| v == l));
        match self.operator {
            Operator::In => is_in(),
            Operator::NotIn => !is_in(),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selects_as_kubernetes_does() {
        let labels = BTreeMap::from([("color", "blue"), ("tier", "")]);
        let rows = [
            (json!({}), true),
            (json!({"matchLabels": {"color": "blue"}}), true),
            (json!({"matchLabels": {"color": "blue", "tier": "x"}}), false),
            (json!({"matchExpressions": [{"key": "color", "operator": "In", "values": ["blue", "cyan"]}]}), true),
            (json!({"matchExpressions": [{"key": "color", "operator": "In", "values": ["red"]}]}), false),
            (json!({"matchExpressions": [{"key": "color", "operator": "NotIn", "values": ["red"]}]}), true),
            (json!({"matchExpressions": [{"key": "absent", "operator": "NotIn", "values": ["red"]}]}), true),
            (json!({"matchExpressions": [{"key": "absent", "operator": "In", "values": ["red"]}]}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
            (json!({"matchExpressions": [{"key": "absent", "operator": "DoesNotExist"}]}), true),
            (
                json!({"matchLabels": {"color": "blue"}, "matchExpressions": [{"key": "absent", "operator": "Exists"}]}),
                false,
            ),
        ];
        for (selector, selected) in rows {
            let read: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(read.matches(|k| labels.get(k).copied()), selected, "{selector}");
            assert_eq!(serde_json::to_value(&read).unwrap(), selector);
        }
    }
}
