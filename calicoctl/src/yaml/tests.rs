use proptest::prelude::*;
use serde_json::json;

use super::*;

fn load_one(text: &str) -> Result<Value, Vec<SyntaxError>> {
    let chunks = split(text);
    assert_eq!(chunks.len(), 1, "{text}");
    load(chunks[0]).map_err(|m| m.errors)
}

#[test]
fn scalars_follow_the_core_schema() {
    let rows = [
        ("a: 1", json!({"a": 1})),
        ("a: \"1\"", json!({"a": "1"})),
        ("a: 0x1F", json!({"a": 31})),
        ("a: True", json!({"a": true})),
        ("a: yes", json!({"a": "yes"})),
        ("a: 1.10", json!({"a": 1.1})),
        ("a: 10.0.0.0", json!({"a": "10.0.0.0"})),
        ("a: 1.1.1.0/24", json!({"a": "1.1.1.0/24"})),
        ("a: 4294967296", json!({"a": 4294967296u64})),
        ("a: ~\nb:", json!({"a": null, "b": null})),
        ("a: !!str 7", json!({"a": "7"})),
        ("a: rr-group == 'rr1'", json!({"a": "rr-group == 'rr1'"})),
        ("{\"a\": [1, {\"b\": null}]}", json!({"a": [1, {"b": null}]})),
        ("b: &x {k: 1}\nc: *x\nd: {<<: *x, l: 2}", json!({"b": {"k": 1}, "c": {"k": 1}, "d": {"l": 2, "k": 1}})),
    ];
    for (text, want) in rows {
        assert_eq!(load_one(text).unwrap(), want, "{text}");
    }
}

#[test]
fn documents_are_split_at_markers_and_keep_their_lines() {
    let text = "# only a comment\n---\na: 1\n---\n\n---\nb: 2\n...\n--- {c: 3}\n";
    let chunks = split(text);
    let lines: Vec<_> = chunks.iter().map(|c| c.lines_before).collect();
    assert_eq!(lines, [2, 6, 8]);
    assert_eq!(load(chunks[2]).unwrap(), json!({"c": 3}));
    assert_eq!(marks(chunks[1]).of("b", false), Some(&Mark { line: 7, column: 4 }));
}

#[test]
fn every_field_has_its_place() {
    let text = "kind: X\nspec:\n  list:\n  - port: 1\n  - port: 70000\n  empty:\n";
    let marks = marks(split(text)[0]);
    for (path, line, column) in
        [("kind", 1, 7), ("spec", 2, 1), ("spec.list", 3, 3), ("spec.list[1].port", 5, 11), ("spec.empty", 6, 3)]
    {
        assert_eq!(marks.of(path, false), Some(&Mark { line, column }), "{path}");
    }
    assert_eq!(marks.of("spec.list[1].port", true), Some(&Mark { line: 5, column: 5 }));
    assert_eq!(marks.of("spec.list[1].nothing", true), Some(&Mark { line: 5, column: 5 }));
}

#[test]
fn bad_texts_say_where_and_why() {
    let deep = "[".repeat(100);
    let bomb = format!(
        "a: &a [{}]\nb: &b [{}]\nc: &c [{}]\nd: [{}]",
        "x,".repeat(50),
        "*a,".repeat(50),
        "*b,".repeat(50),
        "*c,".repeat(50)
    );
    let rows = [
        ("a: 1\nb: [1", 2, "malformed YAML"),
        ("a: 1\nb: 2\na: 3", 3, "already set on line 1"),
        ("{\"a\": 1, \"a\": 2}", 1, "twice"),
        ("x: 1\na: \u{201c}!all()\u{201d}", 2, "typographic quotes"),
        ("x: 1\n\u{201c}a\u{201d}: 1", 2, "typographic quote"),
        ("a\u{a0}: 1", 1, "no-break space"),
        (deep.as_str(), 1, "levels deep"),
        (bomb.as_str(), 3, "aliases expand"),
    ];
    for (text, line, message) in rows {
        let errors = load_one(text).unwrap_err();
        assert!(errors[0].message.contains(message), "{text}: {errors:?}");
        assert_eq!(errors[0].line, line, "{text}: {errors:?}");
    }
}

#[test]
fn emitted_yaml_is_what_calicos_tools_print() {
    let value = json!({"b": [{"x": 1, "y": "all()"}], "a": {"c": "!all()", "e": {}, "l": [], "n": null}});
    let want = "a:\n  c: \"!all()\"\n  e: {}\n  l: []\n  \"n\": null\nb:\n- x: 1\n  \"y\": all()\n";
    assert_eq!(emit(value).unwrap(), want);
}

/// Texts that YAML readers, old and new, take for something else where they are not quoted.
const CONFUSABLE: [&str; 40] = [
    "1",
    "-1",
    "0x1F",
    "0o7",
    "017",
    "1_000",
    "1e3",
    "1.",
    ".5",
    ".inf",
    ".NaN",
    "+1",
    "true",
    "FALSE",
    "yes",
    "No",
    "on",
    "y",
    "null",
    "~",
    "",
    " pad ",
    "-",
    "- a",
    "a: b",
    "a:",
    "x #y",
    "#",
    "!all()",
    "&a",
    "*a",
    "it's",
    "[\"p\"]",
    "{}",
    "<<",
    "=",
    "2023-08-30",
    "12:30:45",
    "%a",
    "---",
];

/// What a document can say: the reader refuses typographic quotes and their like at the start of a value or in a key.
fn text() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        proptest::sample::select(&CONFUSABLE[..]).prop_map(String::from),
        "\\PC{0,12}",
        "[ -~\n\t]{0,120}",
        "[a-z =!&|'()]{0,40}",
    ];
    text.prop_filter("refused by the reader", |t| !t.contains(is_odd))
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        text().prop_map(Value::from),
        proptest::sample::select(&CONFUSABLE[..]).prop_map(Value::from),
    ];
    scalar.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..5).prop_map(|e| Value::Object(e.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn emitted_yaml_reads_back_as_the_same_value(value in value()) {
        // At the top stands a mapping, as in every document of ours: keys of such texts too.
        let value = json!({"kind": "X", "value": value});
        let emitted = emit(value.clone()).unwrap();
        let chunks = split(&emitted);
        prop_assert_eq!(chunks.len(), 1, "{}", emitted);
        let read = load(chunks[0]).map_err(|m| TestCaseError::fail(format!("{emitted}\n{:?}", m.errors)))?;
        prop_assert_eq!(read, value, "{}", emitted);
    }
}
