use std::num::NonZeroU16;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;

const ALL: NonZeroU16 = NonZeroU16::MAX;

fn filled(pairs: &[(&str, &str)]) -> Kv {
    let mut kv = Kv::default();
    for (key, value) in pairs {
        let put = Operation::Put {
            key: key.as_bytes(),
            value: value.as_bytes(),
        };
        assert_eq!(kv.execute(put), Outcome::Stored);
    }
    kv
}

fn scan(kv: &mut Kv, prefix: &str, after: Option<&str>, limit: u16) -> (Vec<String>, bool) {
    let limit = NonZeroU16::new(limit).expect("not zero");
    let after = after.map(str::as_bytes);
    let outcome = kv.execute(Operation::Scan {
        prefix: prefix.as_bytes(),
        after,
        limit,
    });
    let Outcome::Page { entries, more } = outcome else {
        panic!("not a page: {outcome:?}");
    };
    let keys = entries
        .iter()
        .map(|(key, _)| String::from_utf8_lossy(key).into_owned());
    (keys.collect(), more)
}

#[test]
fn what_is_put_is_got_until_it_is_deleted() {
    let mut kv = filled(&[("k", "1"), ("k", "2")]);
    assert_eq!(
        kv.execute(Operation::Get { key: b"k" }),
        Outcome::Value(Some(b"2"))
    );
    assert_eq!(
        kv.execute(Operation::Delete { key: b"k" }),
        Outcome::Deleted(true)
    );
    assert_eq!(
        kv.execute(Operation::Get { key: b"k" }),
        Outcome::Value(None)
    );
    assert_eq!(
        kv.execute(Operation::Delete { key: b"k" }),
        Outcome::Deleted(false)
    );
    assert!(kv.entries().is_empty());
}

#[test]
fn a_swap_needs_what_was_expected() {
    let mut kv = Kv::default();
    let mut swap = |expected: Option<&[u8]>, new: &[u8]| {
        let outcome = kv.execute(Operation::CompareAndSwap {
            key: b"k",
            expected,
            new,
        });
        let Outcome::NotSwapped(current) = outcome else {
            assert_eq!(outcome, Outcome::Swapped);
            return Ok(());
        };
        Err(current.map(<[u8]>::to_vec))
    };
    assert_eq!(swap(Some(b"1"), b"2"), Err(None));
    assert_eq!(swap(None, b"1"), Ok(()));
    assert_eq!(swap(None, b"2"), Err(Some(b"1".to_vec())));
    assert_eq!(swap(Some(b""), b"2"), Err(Some(b"1".to_vec())));
    assert_eq!(swap(Some(b"1"), b"2"), Ok(()));
}

#[test]
fn a_scan_goes_through_its_prefix_page_by_page() {
    let mut kv = filled(&[("a", ""), ("b", ""), ("b/1", ""), ("b/2", ""), ("c", "")]);
    let keys = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        scan(&mut kv, "b", None, 9),
        (keys(&["b", "b/1", "b/2"]), false)
    );
    assert_eq!(
        scan(&mut kv, "b", None, 3),
        (keys(&["b", "b/1", "b/2"]), false)
    );
    assert_eq!(scan(&mut kv, "b", None, 2), (keys(&["b", "b/1"]), true));
    assert_eq!(scan(&mut kv, "b", Some("b/1"), 2), (keys(&["b/2"]), false));
    assert_eq!(scan(&mut kv, "b", Some("b/10"), 2), (keys(&["b/2"]), false));
    // What comes before the prefix is no reason to leave it.
    assert_eq!(scan(&mut kv, "b", Some("a"), 1), (keys(&["b"]), true));
    assert_eq!(scan(&mut kv, "b", Some("c"), 1), (keys(&[]), false));
    assert_eq!(scan(&mut kv, "", None, 9).0.len(), 5);
}

#[test]
fn a_page_is_bounded_in_bytes_and_never_empty_while_there_is_more() {
    let mut kv = Kv::default();
    for n in 0..10u8 {
        let key = vec![n; KEY_BYTES_MAX];
        let value = vec![n; VALUE_BYTES_MAX];
        assert_eq!(
            kv.execute(Operation::Put {
                key: &key,
                value: &value
            }),
            Outcome::Stored
        );
    }
    let mut after: Option<Vec<u8>> = None;
    let mut seen = 0;
    loop {
        let mut reply = Vec::new();
        let scan = Operation::Scan {
            prefix: b"",
            after: after.as_deref(),
            limit: ALL,
        };
        kv.apply(&scan.to_bytes(), &mut reply);
        assert!(reply.len() < 32 * 1024, "{} bytes", reply.len());
        let Some(Outcome::Page { entries, more }) = Outcome::decode(&reply) else {
            panic!("not a page");
        };
        seen += entries.len();
        if !more {
            break;
        }
        after = entries.last().map(|&(key, _)| key.to_vec());
        assert!(after.is_some());
    }
    assert_eq!(seen, 10);
}

#[test]
fn the_bytes_of_operations_are_what_they_have_always_been() {
    let limit = NonZeroU16::new(0x0201).expect("not zero");
    let operations: &[(Operation<'_>, &[u8])] = &[
        (
            Operation::Put {
                key: b"k",
                value: b"vw",
            },
            b"\x01\x01\x00k\x02\x00vw",
        ),
        (Operation::Get { key: b"k" }, b"\x02\x01\x00k"),
        (Operation::Delete { key: b"" }, b"\x03\x00\x00"),
        (
            Operation::CompareAndSwap {
                key: b"k",
                expected: None,
                new: b"v",
            },
            b"\x04\x01\x00k\x00\x01\x00v",
        ),
        (
            Operation::CompareAndSwap {
                key: b"k",
                expected: Some(b"u"),
                new: b"v",
            },
            b"\x04\x01\x00k\x01\x01\x00u\x01\x00v",
        ),
        (
            Operation::Scan {
                prefix: b"p",
                after: None,
                limit,
            },
            b"\x05\x01\x00p\x00\x01\x02",
        ),
        (
            Operation::Scan {
                prefix: b"",
                after: Some(b"a"),
                limit,
            },
            b"\x05\x00\x00\x01\x01\x00a\x01\x02",
        ),
    ];
    for (operation, bytes) in operations {
        assert_eq!(operation.to_bytes(), *bytes, "{operation:?}");
        assert_eq!(Operation::decode(bytes), Some(*operation));
    }
}

#[test]
fn the_bytes_of_outcomes_are_what_they_have_always_been() {
    let outcomes: &[(Outcome<'_>, &[u8])] = &[
        (Outcome::Invalid, b"\x00"),
        (Outcome::Stored, b"\x01"),
        (Outcome::Value(None), b"\x02\x00"),
        (Outcome::Value(Some(b"v")), b"\x02\x01\x01\x00v"),
        (Outcome::Deleted(true), b"\x03\x01"),
        (Outcome::Swapped, b"\x04"),
        (Outcome::NotSwapped(Some(b"")), b"\x05\x01\x00\x00"),
        (
            Outcome::Page {
                entries: vec![(b"a", b"1"), (b"b", b"")],
                more: true,
            },
            b"\x06\x01\x02\x00\x01\x00a\x01\x001\x01\x00b\x00\x00",
        ),
    ];
    for (outcome, bytes) in outcomes {
        let mut encoded = Vec::new();
        outcome.encode(&mut encoded);
        assert_eq!(encoded, *bytes, "{outcome:?}");
        assert_eq!(Outcome::decode(bytes).as_ref(), Some(outcome));
    }
}

#[test]
fn what_is_over_a_limit_or_out_of_order_is_refused() {
    let (key, value) = (vec![1; KEY_BYTES_MAX + 1], vec![1; VALUE_BYTES_MAX + 1]);
    let is_one = |operation: Operation<'_>| Operation::decode(&operation.to_bytes()).is_some();
    assert!(is_one(Operation::Put {
        key: &key[1..],
        value: &value[1..]
    }));
    assert!(!is_one(Operation::Put {
        key: &key,
        value: b""
    }));
    assert!(!is_one(Operation::Put {
        key: b"",
        value: &value
    }));
    assert!(!is_one(Operation::CompareAndSwap {
        key: b"",
        expected: Some(&value),
        new: b""
    }));
    assert!(!is_one(Operation::Scan {
        prefix: b"",
        after: Some(&key),
        limit: ALL
    }));
    assert_eq!(
        Operation::decode(b"\x05\x00\x00\x00\x00\x00"),
        None,
        "a limit of zero"
    );
    assert_eq!(
        Operation::decode(b"\x02\x01\x00k\x00"),
        None,
        "something left over"
    );
    assert_eq!(
        Operation::decode(b"\x04\x00\x00\x02\x00\x00"),
        None,
        "neither there nor missing"
    );
    assert_eq!(
        Outcome::decode(b"\x06\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
        None
    );
}

/// The parts of any operation, and which one they are for.
fn parts() -> impl Strategy<Value = (u8, Vec<u8>, Option<Vec<u8>>, Vec<u8>, NonZeroU16)> {
    let bytes = || vec(any::<u8>(), 0..40);
    (
        0u8..5,
        bytes(),
        option::of(bytes()),
        bytes(),
        any::<NonZeroU16>(),
    )
}

proptest! {
    #[test]
    fn an_operation_survives_the_trip((which, key, optional, value, limit) in parts()) {
        let (key, value, optional) = (&key[..], &value[..], optional.as_deref());
        let operation = match which {
            0 => Operation::Put { key, value },
            1 => Operation::Get { key },
            2 => Operation::Delete { key },
            3 => Operation::CompareAndSwap { key, expected: optional, new: value },
            _ => Operation::Scan { prefix: key, after: optional, limit },
        };
        let bytes = operation.to_bytes();
        prop_assert_eq!(Operation::decode(&bytes), Some(operation));
        // Cut short anywhere, it is none.
        for len in 0..bytes.len() {
            prop_assert_eq!(Operation::decode(&bytes[..len]), None);
        }
    }

    #[test]
    fn an_outcome_survives_the_trip(
        which in 0u8..7,
        value in option::of(vec(any::<u8>(), 0..40)),
        flag: bool,
        map in btree_map(vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9), 0..9),
    ) {
        let value = value.as_deref();
        let outcome = match which {
            0 => Outcome::Invalid,
            1 => Outcome::Stored,
            2 => Outcome::Value(value),
            3 => Outcome::Deleted(flag),
            4 => Outcome::Swapped,
            5 => Outcome::NotSwapped(value),
            _ => {
                let entries = map.iter().map(|(key, value)| (&key[..], &value[..])).collect();
                Outcome::Page { entries, more: flag }
            }
        };
        let mut bytes = Vec::new();
        outcome.encode(&mut bytes);
        let decoded = Outcome::decode(&bytes);
        prop_assert_eq!(decoded.as_ref(), Some(&outcome));
        for len in 0..bytes.len() {
            prop_assert_eq!(Outcome::decode(&bytes[..len]), None);
        }
    }

    #[test]
    fn garbage_changes_nothing_and_is_answered(garbage in vec(any::<u8>(), 0..64)) {
        let mut kv = filled(&[("k", "v")]);
        let before = kv.clone();
        let mut reply = Vec::new();
        kv.apply(&garbage, &mut reply);
        let outcome = Outcome::decode(&reply);
        prop_assert!(outcome.is_some());
        if Operation::decode(&garbage).is_none() {
            prop_assert_eq!(outcome, Some(Outcome::Invalid));
            prop_assert_eq!(kv, before);
        }
    }
}
