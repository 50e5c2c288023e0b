//! The bucket policy that lets everybody read.

use serde_json::{Map, Value, json};

/// The names of larder's statements.
const READ: &str = "LarderPublicRead";
const LIST: &str = "LarderPublicList";

/// The reason why a policy stays as it is.
pub(super) fn not_understood() -> String {
    "the existing policy is not understood, and larder does not change it".into()
}

/// The policy `standing` with larder's statements, or `None` if it has them already.
///
/// `bucket` and `objects` are the resources that everybody may list and read. Fails if the policy is not understood.
pub(super) fn merge(standing: &str, bucket: &str, objects: &str) -> Result<Option<String>, String> {
    let mut policy = match standing.trim() {
        "" => Map::new(),
        text => match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(policy)) => policy,
            _ => return Err(not_understood()),
        },
    };
    let mut statements = match policy.remove("Statement") {
        Some(Value::Array(statements)) => statements,
        Some(statement @ Value::Object(_)) => vec![statement],
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err(not_understood()),
    };
    let changed = [
        extend(&mut statements, READ, "s3:GetObject", objects),
        extend(&mut statements, LIST, "s3:ListBucket", bucket),
    ];
    if changed == [false, false] {
        return Ok(None);
    }
    policy.entry("Version").or_insert_with(|| json!("2012-10-17"));
    policy.insert("Statement".into(), Value::Array(statements));
    Ok(Some(Value::Object(policy).to_string()))
}

/// Makes the statement named `sid` grant `action` on `resource` in addition to its other resources. Returns whether the
/// statement changed.
fn extend(statements: &mut Vec<Value>, sid: &str, action: &str, resource: &str) -> bool {
    let own = statements.iter().position(|statement| statement["Sid"] == sid);
    let mut resources = match own.map(|at| &statements[at]["Resource"]) {
        Some(Value::Array(resources)) => resources.clone(),
        Some(resource @ Value::String(_)) => vec![resource.clone()],
        _ => Vec::new(),
    };
    if !resources.iter().any(|standing| standing == resource) {
        resources.push(resource.into());
    }
    let wanted = json!({
        "Sid": sid,
        "Effect": "Allow",
        "Principal": { "AWS": ["*"] },
        "Action": [action],
        "Resource": resources,
    });
    match own {
        Some(at) if says_the_same(&statements[at], &wanted) => false,
        Some(at) => {
            statements[at] = wanted;
            true
        }
        None => {
            statements.push(wanted);
            true
        }
    }
}

/// Whether two statements mean the same. Servers rewrite a policy: a string instead of a list with one element, `*`
/// instead of `{"AWS": "*"}`.
fn says_the_same(standing: &Value, wanted: &Value) -> bool {
    let everybody = |principal: &Value| *principal == "*" || list(&principal["AWS"]) == [json!("*")];
    standing["Effect"] == wanted["Effect"]
        && everybody(&standing["Principal"])
        && list(&standing["Action"]) == list(&wanted["Action"])
        && list(&standing["Resource"]) == list(&wanted["Resource"])
        && standing.get("Condition").is_none()
}

fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values.clone(),
        Value::Null => Vec::new(),
        value => vec![value.clone()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: &str = "arn:aws:s3:::c";
    const OBJECTS: &str = "arn:aws:s3:::c/*";

    fn statements(policy: &str) -> Vec<Value> {
        let policy: Value = serde_json::from_str(policy).expect("json");
        list(&policy["Statement"])
    }

    #[test]
    fn a_first_policy_grants_reading() {
        let policy = merge("", BUCKET, OBJECTS).expect("merge").expect("changed");
        let statements = statements(&policy);
        assert_eq!(statements.len(), 2);
        assert_eq!(statements[0]["Resource"], json!([OBJECTS]));
        assert_eq!(statements[1]["Action"], json!(["s3:ListBucket"]));
        assert_eq!(merge(&policy, BUCKET, OBJECTS), Ok(None));
    }

    #[test]
    fn other_statements_and_other_prefixes_stay() {
        let other =
            json!({"Sid": "Mine", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "x"});
        let standing = json!({"Version": "2008-10-17", "Id": "i", "Statement": other}).to_string();
        let first = merge(&standing, BUCKET, "arn:aws:s3:::c/a/*").expect("merge").expect("changed");
        let second = merge(&first, BUCKET, "arn:aws:s3:::c/b/*").expect("merge").expect("changed");
        let all = statements(&second);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], other);
        assert_eq!(all[1]["Resource"], json!(["arn:aws:s3:::c/a/*", "arn:aws:s3:::c/b/*"]));
        assert!(second.contains("2008-10-17") && second.contains("\"Id\":\"i\""));
    }

    #[test]
    fn a_policy_that_is_not_understood_stays() {
        assert!(merge("[]", BUCKET, OBJECTS).is_err());
        assert!(merge("{\"Statement\": 1}", BUCKET, OBJECTS).is_err());
        assert!(merge("nonsense", BUCKET, OBJECTS).is_err());
    }
}
