//! Decides from the first connections whether a run can start.

/// What became of the connections that are opened before the start.
pub(crate) struct StartCheck {
    left: usize,
    /// By address.
    targets: Vec<FirstConns>,
}

#[derive(Clone, Default)]
struct FirstConns {
    opened: usize,
    refused: usize,
    problem: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Not all connections have ended their first attempt.
    Wait,
    /// The run starts. A warning for each address at which no connection could be opened.
    Go { warnings: Vec<String> },
    /// The run does not start. The line says why and what to do.
    Fail(String),
}

impl StartCheck {
    /// `conns` connections to `targets` addresses are opened.
    pub(crate) fn new(conns: usize, targets: usize) -> Self {
        Self { left: conns, targets: vec![FirstConns::default(); targets] }
    }

    pub(crate) fn opened(&self) -> usize {
        self.targets.iter().map(|target| target.opened).sum()
    }

    /// Adds a connection to address `target`.
    pub(crate) fn add(&mut self, target: usize, problem: Option<String>) {
        self.left = self.left.saturating_sub(1);
        let conns = &mut self.targets[target];
        match problem {
            None => conns.opened += 1,
            Some(problem) => {
                conns.refused += 1;
                conns.problem.get_or_insert(problem);
            }
        }
    }

    /// A server with one address must accept all connections. Of several addresses some may be dead.
    pub(crate) fn check(&self) -> Start {
        let (is_single, all_ended) = (self.targets.len() == 1, self.left == 0);
        let problem = |target: &FirstConns| target.problem.clone();
        let accepts = |target: &&FirstConns| is_single || target.opened > 0;
        let overloaded = self.targets.iter().filter(accepts).find_map(problem);
        let is_dead = self.opened() == 0;
        let dead = self.targets.iter().find_map(problem);
        match (overloaded.or_else(|| dead.filter(|_| is_dead && all_ended)), all_ended) {
            (Some(problem), _) => Start::Fail(problem),
            (None, false) => Start::Wait,
            (None, true) => {
                Start::Go { warnings: self.targets.iter().filter_map(FirstConns::warning).collect() }
            }
        }
    }
}

impl FirstConns {
    fn warning(&self) -> Option<String> {
        let (problem, refused) = (self.problem.as_ref()?, self.refused);
        Some(format!("{problem}; {refused} connections are missing and are tried again during the run"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(targets: usize, conns: &[(usize, bool)], left: usize) -> Start {
        let mut start = StartCheck::new(conns.len() + left, targets);
        for (target, is_open) in conns {
            start.add(*target, (!is_open).then(|| format!("cannot connect to {target}")));
        }
        start.check()
    }

    fn go(warnings: &[&str]) -> Start {
        Start::Go { warnings: warnings.iter().map(|text| (*text).to_owned()).collect() }
    }

    #[test]
    fn with_one_address_every_connection_must_be_opened() {
        assert_eq!(check(1, &[(0, true)], 1), Start::Wait);
        assert_eq!(check(1, &[(0, true), (0, true)], 0), go(&[]));
        let refused = Start::Fail("cannot connect to 0".to_owned());
        assert_eq!(check(1, &[(0, true), (0, false)], 5), refused, "without waiting for the others");
    }

    #[test]
    fn of_several_addresses_some_may_be_dead() {
        let dead = "cannot connect to 1; 2 connections are missing and are tried again during the run";
        assert_eq!(check(2, &[(0, true), (1, false), (1, false)], 0), go(&[dead]));
        assert_eq!(check(2, &[(0, true), (1, false)], 1), Start::Wait);
        assert_eq!(
            check(2, &[(0, true), (1, false), (0, true), (1, true)], 0),
            Start::Fail("cannot connect to 1".to_owned())
        );
        assert_eq!(check(2, &[(0, false), (1, false)], 0), Start::Fail("cannot connect to 0".to_owned()));
        assert_eq!(check(2, &[(0, false)], 1), Start::Wait);
    }

    #[test]
    fn a_run_that_opens_no_connection_before_the_start_starts_at_once() {
        assert_eq!(check(1, &[], 0), go(&[]));
    }
}
