//! The page: text is escaped, pictures are part of it, nothing is loaded.

use crate::results::table::Table;
use crate::results::{PAGE_GENERATOR, PAGE_HEAD};
use std::fmt::Write;

/// Text as HTML, also inside of quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A picture with its caption.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The SVG document.
    pub svg: String,
    /// What it shows, in words; also for those who cannot see it.
    pub title: String,
    /// Where it comes from.
    pub caption: String,
}

/// A part of the page.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// What the experiment is.
    pub text: String,
    /// Its pictures.
    pub pictures: Vec<Picture>,
    /// Its tables.
    pub tables: Vec<Table>,
}

fn figure(picture: &Picture) -> String {
    let label = format!("<svg role=\"img\" aria-label=\"{}\" ", escape(&picture.title));
    let svg = picture.svg.trim_end().replacen("<svg ", &label, 1);
    format!("<figure>\n{svg}\n<figcaption>{}</figcaption>\n</figure>\n", escape(&picture.caption))
}

fn is_number(text: &str) -> bool {
    text.chars().next().is_some_and(|c| c.is_ascii_digit() || "−-±<≈–".contains(c))
}

fn table(table: &Table) -> String {
    let mut out = String::new();
    if !table.title.is_empty() {
        out += &format!("<h3>{}</h3>\n", escape(&table.title));
    }
    out += "<div class=\"wide\"><table>\n<thead><tr>";
    for column in &table.columns {
        let _ = write!(out, "<th>{}</th>", escape(column));
    }
    out += "</tr></thead>\n<tbody>\n";
    for row in &table.rows {
        out += "<tr>";
        for cell in row {
            let class = match cell {
                cell if is_number(cell) && cell.len() < 24 => " class=\"number\"",
                cell if cell.chars().count() > 32 => " class=\"long\"",
                _ => "",
            };
            let _ = write!(out, "<td{class}>{}</td>", escape(cell));
        }
        out += "</tr>\n";
    }
    out += "</tbody></table></div>\n";
    if !table.note.is_empty() {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(&table.note));
    }
    out
}

fn section(section: &Section) -> String {
    let mut out = format!("<section>\n<h2>{}</h2>\n", escape(&section.title));
    if !section.text.is_empty() {
        let _ = writeln!(out, "<p>{}</p>", escape(&section.text));
    }
    section.tables.iter().for_each(|each| out += &table(each));
    if !section.pictures.is_empty() {
        out += "<div class=\"pictures\">\n";
        section.pictures.iter().for_each(|picture| out += &figure(picture));
        out += "</div>\n";
    }
    out + "</section>\n"
}

/// The whole page.
pub fn page(title: &str, introduction: &str, first: &Picture, sections: &[Section]) -> String {
    let title = escape(title);
    let mut out = format!(
        "{PAGE_HEAD}{PAGE_GENERATOR}<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<p class=\"lead\">{}</p>\n",
        include_str!("style.css"),
        escape(introduction)
    );
    let _ = writeln!(out, "<div class=\"first\">\n{}</div>", figure(first));
    sections.iter().for_each(|each| out += &section(each));
    out + "</main>\n</body>\n</html>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_escaped() {
        let evil = "<script>alert(\"1\" & '2')</script>".to_owned();
        let picture = Picture { svg: "<svg width=\"1\"></svg>\n".into(), title: evil.clone(), caption: evil.clone() };
        let table = Table {
            title: evil.clone(),
            note: evil.clone(),
            columns: vec![evil.clone()],
            rows: vec![vec![evil.clone(), "−1.5".into()]],
        };
        let section =
            Section { title: evil.clone(), text: evil.clone(), pictures: vec![picture.clone()], tables: vec![table] };
        let page = page(&evil, &evil, &picture, &[section]);
        assert!(!page.contains("<script") && !page.contains("alert(\""), "{page}");
        // Title twice, introduction; two pictures with title and caption; section with text; table with four.
        assert_eq!(page.matches("&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;").count(), 13);
        assert!(page.contains("<td class=\"number\">−1.5</td>"));
    }
}
