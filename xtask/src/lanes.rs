//! Test programs side by side: most of their time they wait, for servers to start and for clocks.

use crate::sh::Sh;
use crate::steps::Step;
use std::sync::{Mutex, PoisonError};

/// Two on the two cores of CI's machine. More would fight for the processors, and the tests' deadlines with them.
const LANES: usize = 2;

/// Runs each once; the steps come in the order of `items`. One lane begins at the front, the other at the end, so that programs that need the same
/// kind of server seldom run together.
pub(crate) fn run<T: Sync>(sh: &Sh, items: &[T], step: impl Fn(&Sh, &T) -> Step + Sync) -> Vec<Step> {
    let left = Mutex::new(0..items.len());
    let done = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (left, done, step) = (&left, &done, &step);
            let sh = sh.beside();
            scope.spawn(move || {
                loop {
                    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
                    let Some(index) = (if lane % 2 == 0 { left.next() } else { left.next_back() }) else { break };
                    drop(left);
                    let step = step(&sh, &items[index]);
                    sh.show(&step.name);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((index, step));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, step)| step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runs_once_and_keeps_its_own_words() {
        let sh = Sh::new().unwrap();
        let items: Vec<usize> = (0..9).collect();
        let steps = run(&sh, &items, |sh, item| {
            Step::take(sh, &item.to_string(), || {
                sh.run(sh.command("sh").args(["-c", &format!("echo says {item}; exit {}", item % 2)]))
            })
        });
        let told: Vec<_> = steps.iter().map(|step| (step.name.as_str(), step.tail())).collect();
        let expected: Vec<_> =
            items.iter().map(|item| (item.to_string(), (item % 2 == 1).then(|| format!("says {item}")))).collect();
        let expected: Vec<_> = expected.iter().map(|(name, tail)| (name.as_str(), tail.clone())).collect();
        assert_eq!(told, expected);
    }
}
