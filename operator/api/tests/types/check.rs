//! A schema asked about an object, as the API server asks: defaults first, then structure, then
//! rules. It knows the keywords that our schemas use, and refuses one that it does not know.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel;
use serde_json::Value;

/// The schema of the kind that an object is of.
pub(crate) fn schema_of(object: &Value) -> Value {
    let kind = object["kind"].as_str().expect("an object has a kind");
    let crd = macula_api::crds().into_iter().find(|crd| crd.spec.names.kind == kind);
    schema(&crd.unwrap_or_else(|| panic!("{kind} is no kind of ours")))
}

/// The schema of a kind.
pub(crate) fn schema(crd: &CustomResourceDefinition) -> Value {
    let validation = crd.spec.versions[0].schema.as_ref();
    serde_json::to_value(validation.and_then(|it| it.open_api_v3_schema.as_ref())).unwrap()
}

/// Everything that is wrong with an object, or with its change from another.
pub(crate) fn faults(object: &Value, before: Option<&Value>) -> Vec<String> {
    let schema = schema_of(object);
    let whole = |object| cel::apply_defaults(&schema, object);
    let object = whole(object);
    let mut faults = structure(&schema, &object, "");
    if faults.is_empty() {
        let rules = cel::Validator::new().validate(&schema, &object, before.map(whole).as_ref());
        let errors = rules.err().map(cel::ValidationErrors::into_vec).unwrap_or_default();
        faults.extend(errors.iter().map(ToString::to_string));
    }
    faults
}

/// Everything that is wrong with the structure of a value.
pub(crate) fn structure(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (keyword, limit) in schema.as_object().expect("a schema is an object") {
        let number = limit.as_f64().unwrap_or_default();
        let length = value.as_str().map_or(0, str::len) as f64;
        let count = value.as_array().map_or(0, Vec::len) as f64;
        let fault = match keyword.as_str() {
            "minimum" if value.as_f64().is_some_and(|it| it < number) => {
                format!("should be greater than or equal to {number}")
            }
            "maximum" if value.as_f64().is_some_and(|it| it > number) => {
                format!("should be less than or equal to {number}")
            }
            "minLength" if value.is_string() && length < number => "too short".to_owned(),
            "maxLength" if length > number => {
                format!("Too long: may not be more than {number} bytes")
            }
            "minItems" if value.is_array() && count < number => {
                format!("should have at least {number} items")
            }
            "maxItems" if count > number => format!("must have at most {number} items"),
            "maxProperties" if value.as_object().is_some_and(|it| it.len() as f64 > number) => {
                format!("must have at most {number} properties")
            }
            "enum" if !limit.as_array().unwrap().contains(value) => "Unsupported value".to_owned(),
            "pattern" if value.as_str().is_some_and(|text| !matches(limit, text)) => {
                format!("should match {limit}")
            }
            "type" if !is_of(limit.as_str().unwrap(), value) => format!("is no {limit}"),
            "required" => {
                let keys = limit.as_array().unwrap().iter().filter_map(Value::as_str);
                let missing: Vec<_> = keys.filter(|key| value.get(key).is_none()).collect();
                if missing.is_empty() {
                    continue;
                }
                format!("lacks {}", missing.join(", "))
            }
            "minimum"
            | "maximum"
            | "minLength"
            | "maxLength"
            | "minItems"
            | "maxItems"
            | "maxProperties"
            | "enum"
            | "pattern"
            | "type"
            | "properties"
            | "items"
            | "additionalProperties"
            | "default"
            | "description"
            | "format"
            | "x-kubernetes-validations"
            | "x-kubernetes-int-or-string"
            | "x-kubernetes-list-type"
            | "x-kubernetes-list-map-keys"
            | "x-kubernetes-map-type" => continue,
            unknown => panic!("the schema of {path} uses {unknown}, which is not checked here"),
        };
        faults.push(format!("{path}: {fault}"));
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        let below = format!("{path}.{key}");
        match (&schema["properties"][key], &schema["additionalProperties"]) {
            (schema @ Value::Object(_), _) | (_, schema @ Value::Object(_)) => {
                faults.extend(structure(schema, value, &below));
            }
            // The fields that every object has are not in the schema.
            _ if path.is_empty() => {}
            _ => faults.push(format!("unknown field {below}")),
        }
    }
    for item in value.as_array().into_iter().flatten() {
        faults.extend(structure(&schema["items"], item, &format!("{path}[]")));
    }
    faults
}

/// Asked of CEL, whose patterns are those of the API server.
fn matches(pattern: &Value, text: &str) -> bool {
    let pattern = pattern.as_str().unwrap().replace('\\', r"\\");
    let schema = serde_json::json!({
        "type": "string",
        "x-kubernetes-validations": [{ "rule": format!("self.matches('{pattern}')") }],
    });
    cel::Validator::new().validate(&schema, &text.into(), None).is_ok()
}

fn is_of(type_: &str, value: &Value) -> bool {
    match type_ {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        unknown => panic!("the type {unknown} is not checked here"),
    }
}
