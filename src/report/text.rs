//! Text for terminals and mails: nothing in it moves the cursor, and what is meant to be pasted can be.

/// Whether a terminal would act on it, or a reader be misled: control characters, and those that hide or reverse.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escaped(c: char) -> String {
    match c {
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        '\t' => "\\t".into(),
        c if (c as u32) < 0x80 => format!("\\x{:02x}", c as u32),
        c if (c as u32) < 0x10000 => format!("\\u{:04x}", c as u32),
        c => format!("\\U{:08x}", c as u32),
    }
}

/// As people may see it, at most `longest` characters.
pub fn shown(text: &str, longest: usize) -> String {
    let all: String =
        text.chars().map(|c| if is_odd(c) { escaped(c) } else { c.to_string() }).collect();
    if all.chars().count() <= longest {
        return all;
    }
    all.chars().take(longest - 3).chain("...".chars()).collect()
}

/// Where a line may be broken though there is no blank.
pub const BREAK: char = '\u{1}';

/// A blank at which no line may be broken.
const BLANK: char = '\u{2}';

/// An SQL literal in which nothing is odd, for [`wrapped`]. It is written in pieces where it is long: literals with
/// nothing but a line break between them are one.
pub fn literal(text: &str) -> String {
    const LONGEST: usize = 60;
    let is_plain = !text.chars().any(|c| is_odd(c) || c == '\\');
    let mut out = if is_plain { "'".to_owned() } else { "E'".to_owned() };
    let mut used = 0;
    for c in text.chars() {
        let piece = match c {
            '\'' => "''".to_owned(),
            '\\' => "\\\\".to_owned(),
            ' ' => BLANK.to_string(),
            c if is_odd(c) => escaped(c),
            c => c.to_string(),
        };
        used += piece.chars().count();
        if used > LONGEST {
            out.push_str("'\n'");
            used = piece.chars().count();
        }
        out.push_str(&piece);
    }
    out.push('\'');
    out
}

pub fn thousands(n: i64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Adds `text` in lines of at most `width` characters, the first after `lead`, the others indented as far. Lines are
/// broken at blanks, at [`BREAK`] and at line breaks; a word that is longer than a line is cut.
pub fn wrapped(out: &mut Vec<String>, lead: &str, text: &str, width: usize) {
    let indent = " ".repeat(lead.chars().count());
    let room = width - indent.len();
    let mut lines = vec![String::new()];
    for part in text.split('\n') {
        let mut first = true;
        for word in part.split_inclusive([' ', BREAK]) {
            let bare = word.trim_end_matches([' ', BREAK]);
            let line = lines.last_mut().expect("there is a line");
            if !line.is_empty() && (first || line.chars().count() + bare.chars().count() > room) {
                lines.push(String::new());
            }
            first = false;
            for c in word.chars().filter(|c| *c != BREAK) {
                let c = if c == BLANK { ' ' } else { c };
                let line = lines.last_mut().expect("there is a line");
                if line.chars().count() >= room && c != ' ' {
                    lines.push(c.to_string());
                } else {
                    line.push(c);
                }
            }
        }
    }
    for (place, line) in lines.iter().enumerate() {
        let before = if place == 0 { lead } else { &indent };
        out.push(format!("{before}{}", line.trim_end()));
    }
}
