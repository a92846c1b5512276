//! A small scanner of Rust text: what remains of a file without comments, strings and tests, and
//! the paths that it names.
//!
//! It knows only as much of the language as the rules in `tidy.rs` need. Where it is in doubt it
//! sees too much rather than too little: a rule may then complain about innocent text, but does not
//! overlook a guilty one.

use std::collections::BTreeSet;

/// One file of the crate.
pub(crate) struct Source {
    /// From the root of the crate, with `/`: `src/storage/mod.rs`.
    pub(crate) path: String,
    /// As it is on disk.
    pub(crate) text: String,
    /// The text with comments, the insides of strings and all test code turned into blanks. Line
    /// numbers stay.
    pub(crate) code: String,
    /// Every path in the code.
    pub(crate) paths: Vec<Path>,
}

/// A path as it stands in the code: `a::b::c`, one for each leaf of a tree of imports, or a single
/// word.
pub(crate) struct Path {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
    /// `name!`.
    pub(crate) is_macro: bool,
    /// `.name(`.
    pub(crate) is_method: bool,
    /// `pub use name`: shown to the world, not used.
    pub(crate) is_shown: bool,
}

/// Reads (path, text) pairs. Files that are modules only of a test build come out without code.
pub(crate) fn read(files: impl IntoIterator<Item = (String, String)>) -> Vec<Source> {
    let scanned = files.into_iter().map(|(path, text)| Source {
        code: without_comments(&text),
        path,
        text,
        paths: Vec::new(),
    });
    let mut sources: Vec<Source> = scanned.collect();
    let tests: BTreeSet<String> =
        sources.iter().flat_map(|source| test_modules(&source.path, &source.code)).collect();
    for source in &mut sources {
        let module = module_of(&source.path).join("/");
        let within_a_test =
            tests.iter().any(|test| module == *test || module.starts_with(&format!("{test}/")));
        source.code = if within_a_test { String::new() } else { without_tests(&source.code) };
        source.paths = paths(&source.code);
    }
    sources
}

/// The module that a file under `src` is: `src/storage/mod.rs` is `[storage]`, `src/lib.rs` is
/// `[]`.
pub(crate) fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').filter(|&name| name != "lib").map(str::to_owned).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn starts_with(text: &[char], at: usize, what: &str) -> bool {
    what.chars().enumerate().all(|(i, c)| text.get(at + i) == Some(&c))
}

fn blank(text: &mut [char], from: usize, to: usize) {
    let to = to.min(text.len());
    for c in &mut text[from..to] {
        if *c != '\n' {
            *c = ' ';
        }
    }
}

/// Turns comments and the insides of strings and characters into blanks.
fn without_comments(text: &str) -> String {
    let mut text: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < text.len() {
        let end = match text[at] {
            '/' if starts_with(&text, at, "//") => {
                text[at..].iter().position(|&c| c == '\n').map_or(text.len(), |n| at + n)
            }
            '/' if starts_with(&text, at, "/*") => end_of_block_comment(&text, at),
            '"' => end_of_string(&text, at),
            'r' if at == 0 || !is_word(text[at - 1]) || "bc".contains(text[at - 1]) => {
                end_of_raw_string(&text, at).unwrap_or(at)
            }
            '\'' => end_of_character(&text, at).unwrap_or(at),
            _ => at,
        };
        blank(&mut text, at, end);
        at = end.max(at + 1);
    }
    text.into_iter().collect()
}

fn end_of_block_comment(text: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < text.len() {
        if starts_with(text, i, "/*") {
            depth += 1;
            i += 2;
        } else if starts_with(text, i, "*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    text.len()
}

fn end_of_string(text: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < text.len() {
        match text[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    text.len()
}

/// `r"..."` or `r#"..."#` that begins at `at`; `None` if it is only a word with an r.
fn end_of_raw_string(text: &[char], at: usize) -> Option<usize> {
    let hashes = text[at + 1..].iter().take_while(|&&c| c == '#').count();
    if text.get(at + 1 + hashes) != Some(&'"') {
        return None;
    }
    let close: String = std::iter::once('"').chain("#".repeat(hashes).chars()).collect();
    let body = at + hashes + 2;
    (body..text.len())
        .find(|&i| starts_with(text, i, &close))
        .map(|i| i + close.len())
        .or(Some(text.len()))
}

/// `'x'` or `'\n'` that begins at `at`; `None` if it is a lifetime.
fn end_of_character(text: &[char], at: usize) -> Option<usize> {
    match text.get(at + 1)? {
        '\\' => (at + 3..text.len()).find(|&i| text[i] == '\'').map(|i| i + 1),
        _ => (text.get(at + 2) == Some(&'\'')).then_some(at + 3),
    }
}

const TEST_ATTRIBUTES: [&str; 3] =
    ["#[cfg(test)]", "#[cfg(all(test,", "#[cfg(any(test, fuzzing))]"];

/// Where each item that only a test build sees begins and ends.
fn test_items(code: &[char]) -> Vec<(usize, usize)> {
    let begins =
        |at: usize| TEST_ATTRIBUTES.iter().any(|attribute| starts_with(code, at, attribute));
    let (mut items, mut at) = (Vec::new(), 0);
    while at < code.len() {
        if begins(at) {
            let end = end_of_item(code, at);
            items.push((at, end));
            at = end;
        } else {
            at += 1;
        }
    }
    items
}

/// An item ends with its `;`, its `,` or its block.
fn end_of_item(code: &[char], at: usize) -> usize {
    let mut depth = 0;
    for (i, c) in code.iter().enumerate().skip(at) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return i,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            ';' | ',' if depth == 0 => return i + 1,
            _ => {}
        }
    }
    code.len()
}

fn without_tests(code: &str) -> String {
    if code.contains("#![cfg(test)]") {
        return String::new();
    }
    let mut code: Vec<char> = code.chars().collect();
    for (from, to) in test_items(&code) {
        blank(&mut code, from, to);
    }
    code.into_iter().collect()
}

/// `#[cfg(test)] mod scripts;` in `src/replica/mod.rs` names the module `replica/scripts`.
fn test_modules(path: &str, code: &str) -> Vec<String> {
    let code: Vec<char> = code.chars().collect();
    let declared = test_items(&code).into_iter().filter_map(|(from, to)| {
        let item: String = code[from..to].iter().collect();
        let name = item.strip_suffix(';')?.rsplit_once("mod ")?.1.trim().to_owned();
        Some([module_of(path), vec![name]].concat().join("/"))
    });
    declared.collect()
}

const SHOWN: [char; 8] = ['p', 'u', 'b', ' ', 'u', 's', 'e', ' '];

/// Every path in `code`, the leaves of import trees one by one. Key words come out as paths of one
/// word.
fn paths(code: &str) -> Vec<Path> {
    let text: Vec<char> = code.chars().collect();
    let mut paths = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if is_word(text[at]) {
            let (first, is_shown) = (paths.len(), text[..at].ends_with(&SHOWN));
            at = read_path(&text, at, &[], &mut paths);
            paths[first..].iter_mut().for_each(|path| path.is_shown = is_shown);
        } else {
            at += 1;
        }
    }
    count_lines(&text, &mut paths);
    paths
}

/// Turns the places of `paths`, which ascend, into line numbers.
fn count_lines(text: &[char], paths: &mut [Path]) {
    let (mut line, mut counted) = (1, 0);
    for path in paths {
        line += text[counted..path.line].iter().filter(|&&c| c == '\n').count();
        counted = path.line;
        path.line = line;
    }
}

/// Reads one path, or one tree of them, whose words stand behind `prefix`. Returns where it ends.
fn read_path(text: &[char], begin: usize, prefix: &[String], paths: &mut Vec<Path>) -> usize {
    let mut segments = prefix.to_vec();
    let mut at = begin;
    loop {
        let end = end_of_word(text, at);
        segments.push(text[at..end].iter().collect());
        at = end;
        let next = skip_blanks(text, at);
        if !starts_with(text, next, "::") {
            break;
        }
        let next = skip_blanks(text, next + 2);
        match text.get(next) {
            Some('{') => return read_tree(text, next + 1, &segments, paths),
            Some(&c) if is_word(c) => at = next,
            Some('*') => {
                segments.push("*".to_owned());
                at = next + 1;
                break;
            }
            _ => break,
        }
    }
    let is_method = begin > 0 && text[begin - 1] == '.' && text.get(at) == Some(&'(');
    let is_macro = text.get(at) == Some(&'!') && text.get(at + 1) != Some(&'=');
    paths.push(Path { line: begin, segments, is_macro, is_method, is_shown: false });
    at
}

/// Reads `a, b::c, d::{e, f} }`.
fn read_tree(text: &[char], begin: usize, prefix: &[String], paths: &mut Vec<Path>) -> usize {
    let mut at = begin;
    while at < text.len() && text[at] != '}' {
        at = match text[at] {
            c if !is_word(c) => at + 1,
            _ if starts_with(text, at, "as ") => end_of_word(text, skip_blanks(text, at + 3)),
            _ => read_path(text, at, prefix, paths),
        };
    }
    at + 1
}

fn end_of_word(text: &[char], at: usize) -> usize {
    (at..text.len()).find(|&i| !is_word(text[i])).unwrap_or(text.len())
}

fn skip_blanks(text: &[char], at: usize) -> usize {
    (at..text.len()).find(|&i| !text[i].is_whitespace()).unwrap_or(text.len())
}
