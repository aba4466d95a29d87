//! Every form of a secret is found, and nothing where there is none.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn base64_goes_there_and_back() {
    assert_eq!(base64(b"Weft hides it"), b"V2VmdCBoaWRlcyBp");
    assert_eq!(decode("V2VmdCBoaWRlcyBpdA=="), b"Weft hides it");
}

#[test]
fn a_word_is_found_in_each_of_its_forms() {
    let secret = Secret::word("token", "0123456789abcdef0123\n");
    let before_and_after = base64(b"the token 0123456789abcdef0123 it is");
    let hexed = hex(b"0123456789abcdef0123");
    for text in [&b"token=0123456789abcdef0123"[..], &before_and_after, &hexed] {
        assert!(secret.is_in(text), "{}", String::from_utf8_lossy(text));
    }
    assert!(!secret.is_in(b"token-file=/run/token 0123456789"));
}

#[test]
fn a_key_is_found_by_its_secret_number() {
    let scalar: Vec<u8> = (100..132).collect();
    let der: Vec<u8> = [vec![1; 36], scalar.clone(), vec![2; 70]].concat();
    let text = String::from_utf8(base64(&der)).unwrap();
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    let key = Secret::key("key", &pem).unwrap();
    for found in
        [pem.as_bytes(), &scalar, &hex(&scalar), format!("{scalar:?}").as_bytes(), &base64(&der[1..])]
    {
        assert!(key.is_in(found), "{}", String::from_utf8_lossy(found));
    }
    assert!(!key.is_in(&[1; 36]) && !key.is_in(&lines[0].as_bytes()[..48]));
}
