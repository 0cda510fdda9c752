//! Options and commands that people know from other load generators (wrk, wrk2, hey, oha, k6, vegeta, bombardier), and
//! what to write here. Looked up when an argument is not known.

/// Names of an option in other programs, and the advice.
const OPTIONS: [(&[&str], &str); 20] = [
    (&["-R", "--rps"], "did you mean '--rate', packets per second over all connections"),
    (&["-q", "--qps"], "did you mean '--rate', packets per second over all connections, not per worker"),
    (&["-n", "--requests", "--iterations", "-i"], "did you mean '--packets', over all connections"),
    (&["-u", "--vus", "--users", "--clients", "--workers"], "did you mean '--conns'"),
    (&["--connections", "--concurrency"], "did you mean '--conns'"),
    (&["-z", "--time"], "did you mean '--duration'"),
    (&["-T"], "did you mean '--timeout'"),
    (&["-w", "--warm-up"], "did you mean '--warmup'"),
    (&["--ramp-up", "--rampup"], "did you mean '--ramp'"),
    (&["-L", "--latency"], "leave it out: latency is always measured"),
    (&["--no-tui"], "leave it out: the live view is drawn only with '--tui'"),
    (&["-k", "--insecure"], "did you mean '--tls-insecure'"),
    (&["--cacert", "--ca"], "did you mean '--tls-ca'"),
    (&["-p", "-P", "--parallel"], "did you mean '--pipeline', packets outstanding per connection"),
    (&["--cpus"], "did you mean '--threads'"),
    (&["--url", "--host", "--target", "--address"], "write the address alone: pktbench HOST:PORT"),
    (&["-b", "--body", "-D", "--data"], "did you mean '--payload', or '--sizes' for generated payloads"),
    (&["-s", "--stage"], "did you mean '--stages'"),
    (&["-H", "-m", "--method"], "packets have a length and a payload, no headers and no method"),
    (&["-v", "--verbose"], "set the environment variable RUST_LOG=debug instead"),
];

/// Commands of other programs that run a load.
const RUN: [&str; 4] = ["run", "attack", "bench", "load"];

/// What to write instead of this option.
pub(crate) fn advice(option: &str) -> Option<&'static str> {
    OPTIONS.into_iter().find(|(names, _)| names.contains(&option)).map(|(_, advice)| advice)
}

/// Why `word`, which is no address, is not a command either, and what to write. `commands` are those of this program.
pub(crate) fn not_a_command(word: &str, commands: &[&str]) -> String {
    if commands.contains(&word) {
        return format!("'{word}' must be the first word: pktbench {word} ...");
    }
    if RUN.contains(&word) {
        return format!("there is no command '{word}': leave it out, and write pktbench HOST:PORT");
    }
    let closest = commands.iter().map(|command| (distance(word, command), *command)).min();
    let is_start = |command: &&&str| word.len() > 1 && command.starts_with(word);
    match (commands.iter().find(is_start), closest) {
        (Some(command), _) => format!("unknown command '{word}'; did you mean '{command}'"),
        (None, Some((1..=2, command))) => format!("unknown command '{word}'; did you mean '{command}'"),
        _ => format!(
            "'{word}' is neither a command ({}) nor an address; an address is HOST:PORT, such as 127.0.0.1:14572 or \
             [::1]:14572, or unix:PATH",
            commands.join(", ")
        ),
    }
}

/// How many letters must be inserted, removed or replaced to turn one word into the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (place, candidate) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *candidate);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_counts_the_letters_that_differ() {
        let cases =
            [("compare", "compare", 0), ("conpare", "compare", 1), ("comapre", "compare", 2), ("", "man", 3)];
        for (one, other, expected) in cases {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_word_that_is_almost_a_command_gets_that_command() {
        let commands = ["html", "conform", "compare", "merge", "man"];
        for (word, expected) in [
            ("conpare", "did you mean 'compare'"),
            ("comapre", "did you mean 'compare'"),
            ("conf", "did you mean 'conform'"),
            ("htm", "did you mean 'html'"),
            ("merg", "did you mean 'merge'"),
            ("compare", "must be the first word: pktbench compare"),
            ("run", "leave it out"),
            ("localhost", "an address is HOST:PORT"),
            ("14572", "an address is HOST:PORT"),
        ] {
            let problem = not_a_command(word, &commands);
            assert!(problem.contains(expected), "{word}: {problem}");
        }
    }

    #[test]
    fn no_advice_is_given_for_an_option_of_this_program_and_every_option_in_an_advice_exists() {
        let command = crate::cli::command();
        let mut known: Vec<String> = Vec::new();
        for arg in command.get_arguments() {
            known.extend(arg.get_long().map(|long| format!("--{long}")));
            known.extend(arg.get_short().map(|short| format!("-{short}")));
        }
        for (names, advice) in OPTIONS {
            assert!(names.iter().all(|name| !known.iter().any(|known| known == name)), "{names:?} exist");
            for option in advice.split('\'').filter(|part| part.starts_with("--")) {
                assert!(known.iter().any(|known| known == option), "{option} of {names:?} does not exist");
            }
        }
    }
}
