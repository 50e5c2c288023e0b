//! Letting everybody read, by the bucket's policy.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use serde_json::{Map, Value, json};

use super::error::{Access, answer, explain};
use super::store::S3Bucket;
use crate::base::error::{Area, Error, Result};
use crate::bucket::interface::AnonymousRead;

/// Our statements are found again by these names.
const READ: &str = "LarderPublicRead";
const LIST: &str = "LarderPublicList";

/// Adds what is missing to the policy of the bucket.
pub(super) async fn allow(bucket: &S3Bucket) -> Result<AnonymousRead> {
    let what = || format!("cannot let everybody read `{}`", bucket.address);
    let name = &bucket.address.bucket;
    let standing = match bucket.client.get_bucket_policy().bucket(name).send().await {
        Ok(output) => output.policy,
        Err(error) if error.code() == Some("NoSuchBucketPolicy") => None,
        Err(error) => return unsupported(&error).ok_or_else(|| explain(what(), Access::Policy, &error)),
    };
    let partition = match bucket.region.as_str() {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    let arn = format!("arn:{partition}:s3:::{name}");
    let objects = format!("{arn}/{}*", bucket.address.full_key(""));
    let Some(policy) = merge(standing.as_deref(), &arn, &objects)
        .map_err(|cause| Error::permanent(Area::Bucket, what()).because(cause))?
    else {
        return Ok(AnonymousRead::Granted);
    };
    match bucket.client.put_bucket_policy().bucket(name).policy(policy).send().await {
        Ok(_) => Ok(AnonymousRead::Granted),
        Err(error) => unsupported(&error).ok_or_else(|| explain(what(), Access::Policy, &error)),
    }
}

/// Whether the answer says that this server has no policies.
fn unsupported<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<AnonymousRead> {
    let (status, code) = answer(error);
    let knows_none = match (status?, code.unwrap_or_default()) {
        (_, "NotImplemented" | "MethodNotAllowed" | "NotSupported" | "UnsupportedOperation") => true,
        (404, code) => code != "NoSuchBucket",
        (405 | 501, _) => true,
        _ => false,
    };
    let shown = code.map_or_else(|| format!("{}", status.unwrap_or_default()), |code| format!("`{code}`"));
    knows_none.then(|| {
        AnonymousRead::Unsupported(format!("the server has no bucket policies (it answered {shown})"))
    })
}

/// The policy with our statements, or `None` where they stand already.
fn merge(standing: Option<&str>, bucket: &str, objects: &str) -> Result<Option<String>, String> {
    let mut policy = match standing.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(policy)) => policy,
            _ => return Err("the policy that stands is not understood, and is left alone".into()),
        },
        None => Map::new(),
    };
    let mut statements = match policy.remove("Statement") {
        Some(Value::Array(statements)) => statements,
        Some(statement @ Value::Object(_)) => vec![statement],
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err("the policy that stands is not understood, and is left alone".into()),
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

/// Makes the statement named `sid` grant `action` on `resource` beside what it grants; says whether that was missing.
fn extend(statements: &mut Vec<Value>, sid: &str, action: &str, resource: &str) -> bool {
    let own = statements.iter().position(|statement| statement["Sid"] == sid);
    let mut resources = match own.map(|at| &statements[at]["Resource"]) {
        Some(Value::Array(resources)) => resources.clone(),
        Some(one @ Value::String(_)) => vec![one.clone()],
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

/// Servers write a policy back in their own way: one string for a list of one, `*` for `{"AWS": "*"}`.
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
        one => vec![one.clone()],
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
        let policy = merge(None, BUCKET, OBJECTS).expect("merge").expect("changed");
        let statements = statements(&policy);
        assert_eq!(statements.len(), 2);
        assert_eq!(statements[0]["Resource"], json!([OBJECTS]));
        assert_eq!(statements[1]["Action"], json!(["s3:ListBucket"]));
        assert_eq!(merge(Some(&policy), BUCKET, OBJECTS), Ok(None));
    }

    #[test]
    fn other_statements_and_other_prefixes_stay() {
        let other =
            json!({"Sid": "Mine", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "x"});
        let standing = json!({"Version": "2008-10-17", "Id": "i", "Statement": other}).to_string();
        let first = merge(Some(&standing), BUCKET, "arn:aws:s3:::c/a/*").expect("merge").expect("changed");
        let second = merge(Some(&first), BUCKET, "arn:aws:s3:::c/b/*").expect("merge").expect("changed");
        let all = statements(&second);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], other);
        assert_eq!(all[1]["Resource"], json!(["arn:aws:s3:::c/a/*", "arn:aws:s3:::c/b/*"]));
        assert!(second.contains("2008-10-17") && second.contains("\"Id\":\"i\""));
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        assert!(merge(Some("[]"), BUCKET, OBJECTS).is_err());
        assert!(merge(Some("{\"Statement\": 1}"), BUCKET, OBJECTS).is_err());
        assert!(merge(Some("nonsense"), BUCKET, OBJECTS).is_err());
    }
}
