//! Mutants of the code that a host runs: small changes, each of which breaks one promise. What a simulated cluster is held
//! to has to notice every one; whoever is not noticed is a hole in that.
//!
//! They are in `mutants.txt`, whose head says how they are written. `./x mutants` plants them, each in a copy of the
//! repository. (Those of the model of the database are another matter: [`model::Mutant`](crate::model::Mutant).)

/// One change of the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mutant {
    /// What it is called.
    pub name: String,
    /// Which promise it breaks, in a sentence.
    pub breaks: String,
    /// The file, from the root of the repository.
    pub file: String,
    /// What is there. It is there once.
    pub find: String,
    /// What is there instead.
    pub replace: String,
    /// The command that notices it, if no simulated cluster does: words, and no shell.
    pub by: Option<String>,
}

impl Mutant {
    /// The file with the change.
    pub fn apply(&self, source: &str) -> Result<String, String> {
        let Self { name, file, find, replace, .. } = self;
        match source.matches(find.as_str()).count() {
            1 => Ok(source.replacen(find.as_str(), replace, 1)),
            count => {
                Err(format!("{name}: what it changes is in {file} {count} times, and is to be there once"))
            }
        }
    }
}

/// Reads `mutants.txt`.
pub fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let mut mutants: Vec<Mutant> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        if key == "mutant" {
            mutants.push(Mutant { name: value.to_owned(), ..Mutant::default() });
            continue;
        }
        let mutant = mutants.last_mut().ok_or_else(|| format!("line {number} is of no mutant"))?;
        match key {
            "breaks" => mutant.breaks = value.to_owned(),
            "file" => mutant.file = value.to_owned(),
            "by" => mutant.by = Some(value.to_owned()),
            "-" => add_line(&mut mutant.find, value),
            "+" => add_line(&mut mutant.replace, value),
            _ => return Err(format!("line {number} begins with {key:?}")),
        }
    }
    match mutants.iter().find(|mutant| !is_whole(mutant)) {
        Some(mutant) => Err(format!("{} lacks something, or changes nothing", mutant.name)),
        None => Ok(mutants),
    }
}

fn add_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

fn is_whole(mutant: &Mutant) -> bool {
    let Mutant { name, breaks, file, find, replace, by: _ } = mutant;
    [name, breaks, file, find].into_iter().all(|text| !text.is_empty()) && find != replace
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Words.\n\nmutant two\nbreaks All.\nfile a.rs\n- one\n-   two\n+ one\n\
        mutant none\nbreaks All.\nfile a.rs\nby cargo test\n- b\n";

    #[test]
    fn a_mutant_is_read_as_it_is_written_and_planted_where_it_belongs() {
        let [two, none]: [Mutant; 2] = parse(TEXT).unwrap().try_into().unwrap();
        assert_eq!((&*two.find, &*two.replace, two.by.as_deref()), ("one\n  two", "one", None));
        assert_eq!(two.apply("zero\none\n  two\n"), Ok("zero\none\n".to_owned()));
        assert_eq!((&*none.replace, none.by.as_deref()), ("", Some("cargo test")));
        assert_eq!(none.apply("abc"), Ok("ac".to_owned()));
        assert!(none.apply("abb").is_err() && none.apply("a").is_err());
    }

    #[test]
    fn what_is_no_mutant_is_refused() {
        for text in ["- b", "mutant a\nbreaks All.\nfile a.rs", "mutant a\nstrange b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
