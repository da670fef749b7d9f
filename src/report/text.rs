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
    let all: String = text
        .chars()
        .map(|c| if is_odd(c) { escaped(c) } else { c.to_string() })
        .collect();
    if all.chars().count() <= longest {
        return all;
    }
    all.chars().take(longest - 1).chain(['…']).collect()
}

/// An SQL literal in which nothing is odd. Written in pieces where it is long: literals with a line break between them
/// are one.
pub fn literal(text: &str) -> String {
    if text.chars().any(|c| is_odd(c) || c == '\\') {
        let inside: String = text
            .chars()
            .map(|c| match c {
                '\'' => "''".into(),
                '\\' => "\\\\".into(),
                c if is_odd(c) => escaped(c),
                c => c.to_string(),
            })
            .collect();
        format!("E'{inside}'")
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

pub fn thousands(n: i64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Adds `text` in lines of at most `width` characters, the first after `lead`, the others indented as far. A word
/// that is longer than a line stands in a line of its own.
pub fn wrapped(out: &mut Vec<String>, lead: &str, text: &str, width: usize) {
    let indent = " ".repeat(lead.chars().count());
    let mut line = lead.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        let fits = line.chars().count() + usize::from(!is_empty) + word.chars().count() <= width;
        if !is_empty && !fits {
            out.push(std::mem::replace(&mut line, indent.clone()));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    out.push(line);
}
