//! What a chapter looks like: headings, claims, tables, numbers. Colours on a terminal only, and not when `NO_COLOR`
//! is set.

use postgres::error::DbError;
use std::io::IsTerminal;
use std::time::Duration;

/// Width of headings.
const WIDTH: usize = 78;

/// Text in an ANSI style, where the output takes it.
fn paint(style: &str, text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
        || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
    if plain || !std::io::stdout().is_terminal() {
        text.to_string()
    } else {
        format!("\x1b[{style}m{text}\x1b[0m")
    }
}

/// The title of a chapter.
pub fn heading(number: usize, title: &str) {
    let line = format!("━━ {number} · {title} ");
    let rest = "━".repeat(WIDTH.saturating_sub(line.chars().count()));
    println!("\n{}\n", paint("1;36", &format!("{line}{rest}")));
}

/// A sentence that needs no check.
pub fn say(text: &str) {
    println!("   {text}");
}

/// Something quieter, such as the statement that a chapter runs.
pub fn aside(text: &str) {
    println!("   {}", paint("2", text));
}

/// A claim that was checked and holds.
pub fn claim(text: &str) {
    println!(" {} {text}", paint("1;32", "✓"));
}

/// Why the demonstration ends early, with the causes; of an error of the server also where it happened.
pub fn failure(error: &(dyn std::error::Error + 'static)) {
    let mut text = error.to_string();
    let mut cause = Some(error);
    while let Some(e) = cause {
        if !text.contains(&e.to_string()) {
            text += &format!(": {e}");
        }
        if let Some(place) = e.downcast_ref::<DbError>().and_then(DbError::where_) {
            text += &format!("\nCONTEXT: {place}");
        }
        cause = e.source();
    }
    println!();
    eprintln!("varve-demo: {text}");
}

/// 1234567 as `1,234,567`.
pub fn count(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if n < 0 { format!("-{text}") } else { text }
}

/// Bytes as people read them: kB to GB, in thousands, with three digits that count.
pub fn bytes(n: i64) -> String {
    let mut value = n as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB"] {
        if value.abs() < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    let digits = usize::from(unit != "B" && value.abs() < 100.0);
    format!("{value:.digits$} {unit}")
}

/// A span of time as people read it.
pub fn time(t: Duration) -> String {
    let ms = t.as_secs_f64() * 1000.0;
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.2} s", ms / 1000.0)
    }
}

/// A share, such as what was saved, in percent.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// How a column is aligned.
#[derive(Clone, Copy)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a frame; `total`, where there is one, stands below a line of its own.
pub fn table(head: &[(&str, Align)], rows: &[Vec<String>], total: Option<Vec<String>>) {
    let titles: Vec<String> = head.iter().map(|(title, _)| title.to_string()).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|i| {
            std::iter::once(&titles)
                .chain(rows)
                .chain(total.as_ref())
                .map(|row| row[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let parts: Vec<String> = widths.iter().map(|w| "─".repeat(w + 2)).collect();
        let text = format!("{left}{}{right}", parts.join(middle));
        println!("   {}", paint("2", &text));
    };
    let bar = paint("2", "│");
    let line = |row: &[String], style: Option<&str>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .zip(head)
            .map(|((cell, width), (_, align))| {
                let padded = match align {
                    Align::Left => format!(" {cell:<width$} "),
                    Align::Right => format!(" {cell:>width$} "),
                };
                style.map_or(padded.clone(), |s| paint(s, &padded))
            })
            .collect();
        println!("   {bar}{}{bar}", cells.join(&bar));
    };
    rule("╭", "┬", "╮");
    line(&titles, Some("1"));
    rule("├", "┼", "┤");
    for row in rows {
        line(row, None);
    }
    if let Some(total) = total {
        rule("├", "┼", "┤");
        line(&total, Some("1"));
    }
    rule("╰", "┴", "╯");
}

/// A progress bar on the terminal; none is drawn where the output is a file or a pipe.
pub fn progress(total: u64, unit: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(total);
    let template =
        format!("   {{bar:40.cyan/dim}} {{human_pos}} of {{human_len}} {unit}  {{eta}} left");
    if let Ok(style) = indicatif::ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(619_040), "619,040");
        assert_eq!(count(-1_000), "-1,000");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(24_576), "24.6 kB");
        assert_eq!(bytes(123_456_789), "123 MB");
        assert_eq!(time(Duration::from_micros(1_230)), "1.23 ms");
        assert_eq!(time(Duration::from_millis(1_500)), "1.50 s");
        assert_eq!(percent(0.7254), "72.5 %");
    }
}
