//! `docs/REFERENCE.md`: both kinds field by field, reasons, labels and annotations.

use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use macula_api::names::annotations::{self, Documented};
use macula_api::names::labels;
use macula_api::reasons;

/// Types of Kubernetes' own, which are described there, by the name of the field.
const ELSEWHERE: [(&str, &str); 5] = [
    ("resources", "requests and limits"),
    ("tolerations", "list of tolerations"),
    ("selector", "label selector"),
    ("namespaceSelector", "label selector"),
    ("conditions", "list of conditions"),
];

/// The page.
pub(crate) fn page() -> String {
    let mut page = String::from(
        "<!-- Printed from operator/api; `make crds` writes it again. -->\n\
         # Reference: the two kinds, labels and annotations\n\n\
         `kubectl explain maculamesh.spec` and `kubectl explain macularealm.spec` show the same text.\n\
         A field that is not written in **bold** may be left out. How they are used is in\n\
         [KUBERNETES.md](KUBERNETES.md).\n",
    );
    for crd in macula_api::crds() {
        kind(&mut page, &crd);
    }
    page.push_str(
        "\n## Reasons of conditions\n\n\
         A condition has a type, a status, one of these reasons, and a message for a person.\n\n\
         | Reason | Meaning |\n| --- | --- |\n",
    );
    for (name, why) in reasons::ALL {
        row(&mut page, &[&format!("`{name}`"), why]);
    }
    page.push_str("\n## Labels\n\nWritten by you:\n");
    documented(&mut page, labels::FOR_USERS);
    page.push_str("\nWritten by the operator:\n");
    documented(&mut page, labels::FROM_OPERATOR);
    page.push_str(
        "\n## Annotations\n\nWritten by you. A pod with a value that cannot be understood is refused \
         with the reason.\n",
    );
    documented(&mut page, annotations::FOR_USERS);
    page.push_str("\nWritten by the operator:\n");
    documented(&mut page, annotations::FROM_OPERATOR);
    page
}

fn kind(page: &mut String, crd: &CustomResourceDefinition) {
    let names = &crd.spec.names;
    let version = &crd.spec.versions[0];
    let schema = version.schema.as_ref().and_then(|it| it.open_api_v3_schema.as_ref()).unwrap();
    let about = schema.description.as_deref().unwrap();
    let short = names.short_names.iter().flatten().map(|it| format!("`{it}`"));
    let short = short.collect::<Vec<_>>().join(", ");
    writeln!(
        page,
        "\n## {}\n\n{about}\n\n`{}/{}`, namespaced; for `kubectl` also {short}, and with the other \
         kind `macula`.",
        names.kind, crd.spec.group, version.name,
    )
    .unwrap();
    for rule in messages(schema) {
        writeln!(page, "\nRule: {rule}.").unwrap();
    }
    for part in ["spec", "status"] {
        let properties = schema.properties.as_ref().unwrap();
        writeln!(page, "\n### {}.{part}\n", names.kind).unwrap();
        page.push_str(match part {
            "spec" => "| Field | Type | Default | Meaning |\n| --- | --- | --- | --- |\n",
            _ => "| Field | Type | Meaning |\n| --- | --- | --- |\n",
        });
        fields(page, &properties[part], "", part == "spec");
    }
    writeln!(page, "\n### Columns of `kubectl get {}`\n", names.singular.as_deref().unwrap())
        .unwrap();
    page.push_str("| Column | Shows |\n| --- | --- |\n");
    for column in version.additional_printer_columns.iter().flatten() {
        let wide = if column.priority == Some(1) { " (with `-o wide`)" } else { "" };
        let shows = column.description.as_deref().unwrap_or("How long ago it was made");
        row(page, &[&column.name, &format!("{shows}{wide}")]);
    }
}

/// The fields of an object, each above those within it.
fn fields(page: &mut String, schema: &JSONSchemaProps, path: &str, defaults: bool) {
    for (name, field) in schema.properties.iter().flatten() {
        let needed = schema.required.iter().flatten().any(|it| it == name);
        let path = format!("{path}{name}");
        let shown = if needed && defaults { format!("**`{path}`**") } else { format!("`{path}`") };
        let elsewhere = ELSEWHERE.iter().find(|(field, _)| field == name).map(|(_, type_)| *type_);
        let type_ = elsewhere.map_or_else(|| type_of(field), str::to_owned);
        let default = match &field.default {
            Some(default) if !default.0.is_object() => code(&default.0),
            _ => String::new(),
        };
        let mut meaning = field.description.clone().unwrap_or_default();
        for rule in messages(field).into_iter().chain(item_messages(field)) {
            write!(meaning, " Rule: {rule}.").unwrap();
        }
        match defaults {
            true => row(page, &[&shown, &type_, &default, &meaning]),
            false => row(page, &[&shown, &type_, &meaning]),
        }
        if elsewhere.is_none() {
            fields(page, field, &format!("{path}."), defaults);
            if let Some(item) = item(field) {
                fields(page, item, &format!("{path}[]."), defaults);
            }
        }
    }
}

/// A type, with its bounds.
fn type_of(schema: &JSONSchemaProps) -> String {
    if let Some(values) = &schema.enum_ {
        return values.iter().map(|it| code(&it.0)).collect::<Vec<_>>().join(", ");
    }
    let bounds = |low: Option<i64>, high: Option<i64>, what: &str| match (low, high) {
        (Some(low), Some(high)) => format!(", {low} to {high}{what}"),
        (Some(low), None) => format!(", at least {low}{what}"),
        (None, Some(high)) => format!(", at most {high}{what}"),
        (None, None) => String::new(),
    };
    match schema.type_.as_deref() {
        Some("integer") => {
            let whole = |bound: f64| bound as i64;
            let bounds = bounds(schema.minimum.map(whole), schema.maximum.map(whole), "");
            format!("integer{bounds}")
        }
        Some("string") if schema.format.as_deref() == Some("date-time") => "time".to_owned(),
        Some("string") => {
            format!("text{}", bounds(schema.min_length, schema.max_length, " characters"))
        }
        Some("array") => {
            let of = item(schema).map(type_of).unwrap_or_default();
            let of = of.split(',').next().unwrap_or_default();
            format!("list of {of}{}", bounds(schema.min_items, schema.max_items, ""))
        }
        Some("object") if schema.additional_properties.is_some() => match &schema
            .additional_properties
        {
            Some(JSONSchemaPropsOrBool::Schema(values)) => format!("map of {}", type_of(values)),
            _ => "map".to_owned(),
        },
        Some("object") => "object".to_owned(),
        other => panic!("the reference has no word for {other:?}"),
    }
}

/// A value as it is written in YAML.
fn code(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| format!("`{value}`"), |text| format!("`{text}`"))
}

fn item(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => Some(item),
        _ => None,
    }
}

fn messages(schema: &JSONSchemaProps) -> Vec<&str> {
    let rules = schema.x_kubernetes_validations.iter().flatten();
    rules.filter_map(|rule| rule.message.as_deref()).collect()
}

fn item_messages(schema: &JSONSchemaProps) -> Vec<&str> {
    item(schema).map(messages).unwrap_or_default()
}

fn documented(page: &mut String, all: &[Documented]) {
    page.push_str("\n| Key | On | Values | Meaning |\n| --- | --- | --- | --- |\n");
    for Documented { key, on, values, meaning } in all {
        row(page, &[&format!("`{key}`"), on, values, meaning]);
    }
}

fn row(page: &mut String, cells: &[&str]) {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    writeln!(page, "| {} |", cells.join(" | ")).unwrap();
}
