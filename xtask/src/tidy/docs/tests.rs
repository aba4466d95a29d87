use super::*;

#[test]
fn links_are_found_outside_code() {
    let text = "see [a](a.md) and [`b`](b.md#x)\n```text\n[c](c.md)\n```\n`[d](d.md)`\n";
    assert_eq!(links(text), ["a.md", "b.md#x"]);
}

#[test]
fn a_heading_is_an_anchor() {
    assert_eq!(anchors("# The data path: in & out\ntext\n").collect::<Vec<_>>(), ["the-data-path-in--out"]);
}

#[test]
fn a_link_is_followed_from_its_document() {
    let texts = [("docs/a.md", "[b](../README.md#two)\n[c](#none)\n"), ("README.md", "# One\n")];
    let texts = texts.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
    // The root is only asked whether a file exists; `/` has neither, so both are missing.
    let files = Files { root: "/".into(), texts };
    assert_eq!(
        broken_links(&files),
        ["docs/a.md: ../README.md#two is not there", "docs/a.md: #none is not there"]
    );
}

#[test]
fn crates_of_the_workspace_need_no_account() {
    let manifest =
        "[workspace.dependencies]\nlab = { path = \"tests/lab\" }\nh2 = \"0.4\"\n\n[profile.dev]\nx = 1\n";
    assert_eq!(foreign(manifest).collect::<Vec<_>>(), ["h2"]);
}
