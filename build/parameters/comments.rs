// Comments in C++.

/// The text without its comments; line numbers stay the same.
pub fn without_comments(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    loop {
        let at = |what: &str| rest.find(what).unwrap_or(rest.len());
        let (line, block) = (at("//"), at("/*"));
        out.push_str(&rest[..line.min(block)]);
        rest = &rest[line.min(block)..];
        if rest.is_empty() {
            return out;
        }
        let end = if line < block { rest.find('\n') } else { rest.find("*/").map(|i| i + 2) }.unwrap_or(rest.len());
        out.extend(rest[..end].chars().filter(|c| *c == '\n'));
        rest = &rest[end..];
    }
}
