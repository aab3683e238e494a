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
fn emitted_yaml_reads_back_as_the_same_value() {
    let values = [
        json!({"z": 1, "a": {"list": [1, "two", {"k": "v", "l": [[], {}]}], "empty": "", "yes": "yes", "n": null}}),
        json!({"s": ["!all()", "rr-group == 'rr1'", "1.1.1.0/24", "a: b", "x #y", " pad ", "[\"p\"]", "it's", "1", "true", "-", "~", "é\n"]}),
        json!([]),
        json!({"2001:db8::/32": "fd00::1"}),
    ];
    for value in values {
        let text = emit(&value);
        assert_eq!(load_one(&text).unwrap_or_else(|e| panic!("{text}\n{e:?}")), value, "{text}");
    }
    assert_eq!(
        emit(&json!({"b": [{"x": 1, "y": "all()"}], "a": {"c": "!all()"}})),
        "a:\n  c: '!all()'\nb:\n- x: 1\n  \"y\": all()\n".replace("\"y\"", "'y'")
    );
}
