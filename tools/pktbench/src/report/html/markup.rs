//! Escapes text for HTML and SVG, and builds sections and tables.

use pktconn_tools::printable::visible;

/// Escapes `text` for use between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' => escaped.push(letter),
            // HTML or XML forbids most control characters, and invisible ones could hide or reverse text.
            _ => escaped.push(visible(letter)),
        }
    }
    escaped
}

/// A part of the page with a heading. `content` is HTML, `title` is plain text.
pub(super) fn section(id: &'static str, title: &str, content: &str) -> String {
    let title = escape(title);
    format!(
        "<section class=\"card\" aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{title}</h2>\n{content}</section>\n"
    )
}

/// A table whose first column names the rows. The cells are plain text.
pub(super) fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let columns = columns.iter().map(|column| format!("<th scope=\"col\">{}</th>", escape(column)));
    let rows = rows.iter().map(|cells| format!("<tr>{}</tr>\n", row(cells)));
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table></div>\n",
        columns.collect::<String>(),
        rows.collect::<String>()
    )
}

/// A table without a head: a name and a value in each row, both plain text.
pub(super) fn list(rows: &[(String, String)]) -> String {
    let rows = rows.iter().map(|(name, value)| {
        format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape(name), escape(value))
    });
    format!("<table><tbody>\n{}</tbody></table>\n", rows.collect::<String>())
}

fn row(cells: &[String]) -> String {
    let cells = cells.iter().enumerate().map(|(column, cell)| match column {
        0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
        _ => format!("<td>{}</td>", escape(cell)),
    });
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_becomes_markup() {
        assert_eq!(
            escape("<b title='\"&\"'>\0é\u{202e}"),
            "&lt;b title=&#39;&quot;&amp;&quot;&#39;&gt;\u{fffd}é\u{fffd}"
        );
        assert!(table(&["<i>"], &[vec!["<b>".to_owned(), "<u>".to_owned()]]).contains("<td>&lt;u&gt;</td>"));
        assert!(list(&[("<i>".to_owned(), "<u>".to_owned())]).contains("&lt;i&gt;</th><td>&lt;u&gt;"));
    }
}
