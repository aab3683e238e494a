use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

#[test]
fn selects() {
    let rows = [
        ("", "", true),
        ("all()", "a=b", true),
        ("!all()", "a=b", false),
        ("rr-group == 'rr1'", "rr-group=rr1", true),
        ("rr-group == \"rr1\"", "rr-group=rr2", false),
        ("a == 'b'", "", false),
        ("a != 'b'", "", true),
        ("a not in {'b', 'c'}", "", true),
        ("a notin {'b'}", "a=b", false),
        ("a in {'b','c',}", "a=c", true),
        ("has(a) && !has(b)", "a=1", true),
        ("has(a) && !has(b)", "a=1,b=2", false),
        ("a == '1' || b == '1' && c == '1'", "a=1", true),
        ("(a == '1' || b == '1') && c == '1'", "a=1", false),
        ("a contains 'ell'", "a=hello", true),
        ("a starts with 'he' && a ends with 'lo'", "a=hello", true),
        ("projectcalico.org/namespace == 'x'", "projectcalico.org/namespace=x", true),
        ("index == '1'", "index=1", true),
        ("all-of == 'x'", "all-of=x", true),
        ("!!has(a)", "a=1", true),
        ("!!!has(a)", "a=1", false),
        ("!(!(has(a)))", "a=1", true),
        ("all( ) && has( a )", "a=1", true),
        ("a not   in{'b'}", "a=b", false),
        ("a starts\twith 'he'", "a=hello", true),
        ("a startswith 'he' && a endswith 'lo'", "a=hello", true),
        ("a in {}", "a=b", false),
        ("a not in {}", "", true),
        ("!a == 'b'", "a=b", false),
        ("global()", "", true),
        ("in in {'in'}", "in=in", true),
        ("not == 'x' || has == 'y'", "has=y", true),
    ];
    for (selector, of, selected) in rows {
        assert_eq!(Selector::parse(selector).expect(selector).matches(&labels(of)), selected, "{selector} on {of}");
    }
}

#[test]
fn says_what_is_wrong_and_where() {
    let long = format!("{} == 'b'", "a".repeat(513));
    let rows = [
        ("a = 'b'", "expected ==", 3),
        ("a == 'b", "unterminated string", 5),
        ("a == b", "expected string", 5),
        ("a ==", "expected string", 4),
        ("a contains b", "expected string", 11),
        ("has(a", "no closing ')' after has(", 5),
        ("all(a)", "no closing ')' after all(", 4),
        ("global(", "no closing ')' after global(", 7),
        ("a", "unexpected end of string looking for op", 1),
        ("a ? 'b'", "expected operator after label \"a\"", 2),
        ("a inb {'b'}", "expected operator after label \"a\"", 2),
        ("a starts 'b'", "expected operator after label \"a\"", 2),
        ("a == 'b' c", "unexpected content at end of selector", 9),
        ("a == 'b')", "unexpected content at end of selector", 8),
        ("a == 'b' & c", "expected &&", 9),
        ("a == 'b' | c", "expected ||", 9),
        ("a in 'b'", "expected set literal", 5),
        ("(a == 'b'", "expected )", 9),
        ("(a == 'b' c", "expected )", 10),
        ("a == 'b' &&", "unexpected end of string looking for op", 11),
        ("!", "unexpected end of string looking for op", 1),
        ("()", "unexpected character ')'", 1),
        ("a in {'b' 'c'}", "expected }", 10),
        ("a in {b}", "expected }", 6),
        ("a in {'b'", "expected }", 9),
        ("a in {,}", "expected }", 6),
        ("a in {'b", "unterminated string", 6),
        (&long, "label too long", 0),
        ("a == 'b'\n", "unexpected content at end of selector", 8),
    ];
    for (selector, reason, offset) in rows {
        let e = Selector::parse(selector).expect_err(selector);
        assert_eq!((e.reason.as_str(), e.offset), (reason, offset), "{selector}");
    }
}

#[test]
fn the_canonical_form_is_calicos() {
    let rows = [
        ("", "all()"),
        (" all( ) ", "all()"),
        ("a=='b'", "a == \"b\""),
        ("a == '\"'", "a == '\"'"),
        ("a == 'b'&&has( c )", "(a == \"b\" && has(c))"),
        ("a == 'b' && c == 'd' || e == 'f'", "((a == \"b\" && c == \"d\") || e == \"f\")"),
        ("((a == 'b'))", "a == \"b\""),
        ("(a == 'b' && c == 'd') && e == 'f'", "((a == \"b\" && c == \"d\") && e == \"f\")"),
        ("!!a == 'b'", "a == \"b\""),
        ("!(a == 'b' || !has(c))", "!(a == \"b\" || !has(c))"),
        ("a in {'z', 'b','b',}", "a in {\"b\", \"z\"}"),
        ("a notin {}", "a not in {}"),
        ("a startswith 'b'", "a starts with \"b\""),
    ];
    for (selector, canonical) in rows {
        assert_eq!(Selector::parse(selector).expect(selector).to_string(), canonical, "{selector}");
    }
}

#[test]
fn no_depth_of_nesting_uses_up_the_stack() {
    let nested = |n: usize| format!("{}has(a){}", "(".repeat(n), ")".repeat(n));
    assert_eq!(Selector::parse(&nested(MAX_DEPTH)), Ok(Selector::Has("a".into())));
    for text in [nested(100_000), "(".repeat(1_000_000), "!(".repeat(500_000), "(a == 'b' || ".repeat(100_000)] {
        let e = Selector::parse(&text).unwrap_err();
        assert_eq!(e.reason, "more than 512 parentheses within each other");
    }
    assert_eq!(Selector::parse(&format!("{}has(a)", "!".repeat(1_000_001))).unwrap().to_string(), "!has(a)");
    // As deep as it goes: printed, read, evaluated and dropped.
    let deep = format!("{}has(a){}", "!(has(b) && ".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH));
    let selector = Selector::parse(&deep).unwrap();
    assert_eq!(Selector::parse(&selector.to_string()), Ok(selector.clone()));
    assert!(selector.matches(&labels("")));
}

/// What a selector says, by the definition of each operator.
fn model(s: &Selector, labels: &BTreeMap<String, String>) -> bool {
    let value = |k: &String| labels.iter().find(|(name, _)| *name == k).map(|(_, v)| v.clone());
    match s {
        Selector::All | Selector::Global => true,
        Selector::Has(k) => value(k).is_some(),
        Selector::Equal(k, v) => value(k) == Some(v.clone()),
        Selector::NotEqual(k, v) => !model(&Selector::Equal(k.clone(), v.clone()), labels),
        Selector::In(k, set) => set.iter().any(|v| model(&Selector::Equal(k.clone(), v.clone()), labels)),
        Selector::NotIn(k, set) => !model(&Selector::In(k.clone(), set.clone()), labels),
        Selector::Contains(k, v) => value(k).is_some_and(|l| l.find(v.as_str()).is_some()),
        Selector::StartsWith(k, v) => value(k).is_some_and(|l| l.get(..v.len()) == Some(v)),
        Selector::EndsWith(k, v) => {
            value(k).is_some_and(|l| l.len() >= v.len() && l.get(l.len() - v.len()..) == Some(v))
        }
        Selector::Not(s) => !model(s, labels),
        Selector::And(all) => !all.iter().any(|s| !model(s, labels)),
        Selector::Or(any) => any.iter().filter(|s| model(s, labels)).count() > 0,
    }
}

fn any_selector() -> impl Strategy<Value = Selector> {
    let k = "[a-c]{1,2}";
    let v = "[a-c'é]{0,3}|[a\"]{0,2}";
    let set = proptest::collection::btree_set(v, 0..3).prop_map(|v| v.into_iter().collect::<Vec<_>>()).boxed();
    let leaf = prop_oneof![
        Just(Selector::All),
        Just(Selector::Global),
        k.prop_map(Selector::Has),
        (k, v).prop_map(|(k, v)| Selector::Equal(k, v)),
        (k, v).prop_map(|(k, v)| Selector::NotEqual(k, v)),
        (k, set.clone()).prop_map(|(k, v)| Selector::In(k, v)),
        (k, set).prop_map(|(k, v)| Selector::NotIn(k, v)),
        (k, v).prop_map(|(k, v)| Selector::Contains(k, v)),
        (k, v).prop_map(|(k, v)| Selector::StartsWith(k, v)),
        (k, v).prop_map(|(k, v)| Selector::EndsWith(k, v)),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(Selector::negated),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Selector::And),
            proptest::collection::vec(inner, 2..4).prop_map(Selector::Or),
        ]
    })
}

/// Texts made of what selectors are made of, right and wrong.
fn any_text() -> impl Strategy<Value = String> {
    let tokens = [
        "a",
        "b-c/d",
        "has(",
        "all()",
        "global()",
        "all(",
        "(",
        ")",
        "!",
        "!=",
        "==",
        "=",
        "&&",
        "&",
        "||",
        "|",
        "in",
        "not in",
        "notin",
        "not",
        "contains",
        "starts with",
        "ends",
        "with",
        "{",
        "}",
        ",",
        "'x'",
        "\"y\"",
        "'",
        "\"",
        " ",
        "\t",
        "\n",
        "é",
        "\u{201c}",
        "'\"'",
    ];
    proptest::collection::vec(proptest::sample::select(tokens.to_vec()), 0..24).prop_map(|t| t.concat())
}

proptest! {
    #[test]
    fn what_is_printed_is_parsed_into_the_same(s in any_selector()) {
        let printed = s.to_string();
        let again = Selector::parse(&printed);
        prop_assert_eq!(again.as_ref(), Ok(&s), "{}", printed);
        prop_assert_eq!(again.unwrap().to_string(), printed);
    }

    #[test]
    fn it_selects_what_the_model_does(
        s in any_selector(),
        of in proptest::collection::btree_map("[a-c]{1,2}", "[a-c'é]{0,4}", 0..4),
    ) {
        prop_assert_eq!(s.matches(&of), model(&s, &of), "{} on {:?}", s, of);
    }

    #[test]
    fn what_parses_has_a_canonical_form_that_stays(text in any_text()) {
        if let Ok(s) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&s.to_string()), Ok(s), "{}", text);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}|[ -~\\t]{0,60}") {
        if let Err(e) = Selector::parse(&text) {
            prop_assert!(e.offset <= text.len() && text.is_char_boundary(e.offset) && !e.reason.is_empty());
        }
    }
}
