//! Whether an ended container is run again. Pure.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::spec::Role;

/// Whether `container`, having ended with `code`, is started again.
pub fn should_restart(pod: &Pod, role: Role, container: &Container, code: i32) -> bool {
    match role {
        Role::Ephemeral => return false,
        Role::Sidecar => return true,
        Role::Init | Role::Main => {}
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|v| *v == code);
        let matches = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches {
            return rule.action == "Restart";
        }
    }
    let pods = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
    match (container.restart_policy.as_deref().unwrap_or(pods), role) {
        ("Never", _) => false,
        // An init container that succeeded is done, whatever the policy.
        ("OnFailure", _) | (_, Role::Init) => code != 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn restarts(policy: &str, role: Role, container: serde_json::Value, code: i32) -> bool {
        let mut container = container;
        container["name"] = json!("c");
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"restartPolicy": policy, "containers": []}}))
                .unwrap();
        should_restart(&pod, role, &serde_json::from_value(container).unwrap(), code)
    }

    #[test]
    fn follows_the_pods_policy() {
        let none = || json!({});
        for (policy, role, code, want) in [
            ("Always", Role::Main, 0, true),
            ("OnFailure", Role::Main, 0, false),
            ("OnFailure", Role::Main, 1, true),
            ("Never", Role::Main, 1, false),
            ("Always", Role::Init, 0, false),
            ("Always", Role::Init, 1, true),
            ("Never", Role::Init, 1, false),
            ("Never", Role::Sidecar, 0, true),
            ("Always", Role::Ephemeral, 1, false),
        ] {
            assert_eq!(restarts(policy, role, none(), code), want, "{policy} {role:?} {code}");
        }
    }

    #[test]
    fn container_policy_and_rules_win() {
        assert!(restarts("Never", Role::Main, json!({"restartPolicy": "Always"}), 0));
        assert!(!restarts("Always", Role::Main, json!({"restartPolicy": "Never"}), 1));
        let rules = json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
        assert!(restarts("Always", Role::Main, rules.clone(), 42));
        assert!(!restarts("Always", Role::Main, rules, 1));
    }
}
