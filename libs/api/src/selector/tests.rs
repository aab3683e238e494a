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
    ];
    for (selector, of, selected) in rows {
        assert_eq!(Selector::parse(selector).expect(selector).matches(&labels(of)), selected, "{selector} on {of}");
    }
}

#[test]
fn says_what_is_wrong_and_where() {
    let rows = [
        ("a = 'b'", "expected ==", 3),
        ("a == 'b", "unterminated string", 5),
        ("a == b", "expected string", 5),
        ("has(a", "no closing ')' after has(", 5),
        ("a", "expected operator after label \"a\"", 1),
        ("a == 'b' c", "unexpected content at end of selector", 9),
        ("a in 'b'", "expected set literal", 5),
        ("(a == 'b'", "expected )", 9),
        ("a == 'b' &&", "unexpected end of string looking for op", 11),
        ("a in {'b' 'c'}", "expected }", 10),
    ];
    for (selector, reason, offset) in rows {
        let e = Selector::parse(selector).expect_err(selector);
        assert_eq!((e.reason.as_str(), e.offset), (reason, offset), "{selector}");
    }
}

fn any_selector() -> impl Strategy<Value = Selector> {
    let k = "[a-c]{1,2}";
    let v = "[a-c']{0,3}";
    let leaf = prop_oneof![
        Just(Selector::All),
        k.prop_map(Selector::Has),
        (k, v).prop_map(|(k, v)| Selector::Equal(k, v)),
        (k, v).prop_map(|(k, v)| Selector::NotEqual(k, v)),
        (k, proptest::collection::btree_set(v, 0..3)).prop_map(|(k, v)| Selector::In(k, v.into_iter().collect())),
        (k, v).prop_map(|(k, v)| Selector::Contains(k, v)),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|s| Selector::Not(Box::new(s))),
            proptest::collection::vec(inner.clone(), 2..3).prop_map(Selector::And),
            proptest::collection::vec(inner, 2..3).prop_map(Selector::Or),
        ]
    })
}

proptest! {
    #[test]
    fn the_canonical_form_means_the_same(s in any_selector()) {
        let printed = s.to_string();
        let again = Selector::parse(&printed).expect("the canonical form parses");
        prop_assert_eq!(again.to_string(), printed.clone());
        for of in ["", "a=a", "a=b,b=c", "b='a,c="] {
            prop_assert_eq!(again.matches(&labels(of)), s.matches(&labels(of)), "{} on {}", printed, of);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}") {
        let _ = Selector::parse(&text);
    }
}
