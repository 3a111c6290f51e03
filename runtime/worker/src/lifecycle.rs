//! What to do next with one connector: a pure function of what is wanted, what is and the time.
//!
//! The supervisor of the connector calls it after every event and carries out what it says; nothing else starts or stops a task.

use crate::admin::TargetState;
use std::time::Instant;

/// Written only by REST and the config folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Counts the configs of this connector: a change means new tasks.
    pub generation: u64,
    pub target: TargetState,
    /// Deleted, or the worker is shutting down: stop and end.
    pub ending: bool,
}

/// Written only by the supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub plan: Plan,
    pub tasks: Vec<Task>,
}

/// Whether the connector has shared out its work, and for which generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    #[default]
    None,
    Running {
        generation: u64,
    },
    Done {
        generation: u64,
    },
    /// `retry_at: None` waits for a new config or a restart.
    Failed {
        generation: u64,
        retry_at: Option<Instant>,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    pub phase: Phase,
    /// An operator (or stall detection) asked for a restart.
    pub restart: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Idle,
    Live {
        stopping: bool,
    },
    /// Waits for an operator.
    Failed,
    /// Restarts by itself.
    Backoff {
        until: Instant,
    },
}

impl Task {
    pub fn is_live(self) -> bool {
        matches!(self.phase, Phase::Live { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the connector for its task configs.
    Plan,
    Start(usize),
    Stop(usize),
    /// Forget the tasks: a stopped connector has none.
    DropTasks,
    /// Nothing before this time, unless something happens.
    WakeAt(Instant),
    /// Nothing is left to do, ever.
    End,
}

pub fn next(desired: &Desired, observed: &Observed, now: Instant) -> Vec<Action> {
    let wanted = desired.target == TargetState::Started && !desired.ending;
    let planned = match observed.plan {
        Plan::None => None,
        Plan::Running { generation } | Plan::Done { generation } | Plan::Failed { generation, .. } => Some(generation),
    };
    if !wanted || planned != Some(desired.generation) {
        return settle(desired, observed, wanted);
    }
    match observed.plan {
        Plan::Failed { retry_at: Some(at), .. } if now >= at => return vec![Action::Plan],
        Plan::Failed { retry_at: Some(at), .. } => return vec![Action::WakeAt(at)],
        Plan::Done { .. } => {}
        _ => return Vec::new(),
    }
    let mut actions = Vec::new();
    for (index, task) in observed.tasks.iter().enumerate() {
        match task.phase {
            Phase::Idle => actions.push(Action::Start(index)),
            Phase::Live { stopping: false } if task.restart => actions.push(Action::Stop(index)),
            Phase::Failed if task.restart => actions.push(Action::Start(index)),
            Phase::Backoff { until } if task.restart || now >= until => actions.push(Action::Start(index)),
            Phase::Backoff { until } => actions.push(Action::WakeAt(until)),
            Phase::Live { .. } | Phase::Failed => {}
        }
    }
    actions
}

/// Tasks of another generation, or of a connector that shall not run: first all stop, then the rest (invariant 5: never two of one id).
fn settle(desired: &Desired, observed: &Observed, wanted: bool) -> Vec<Action> {
    let live = observed.tasks.iter().enumerate().filter(|(_, task)| task.is_live());
    let stops = live.clone().filter(|(_, task)| task.phase == Phase::Live { stopping: false });
    let actions: Vec<Action> = stops.map(|(index, _)| Action::Stop(index)).collect();
    if live.count() > 0 {
        return actions;
    }
    if desired.ending {
        return vec![Action::End];
    }
    if wanted {
        // A plan that is still under way is of an older generation: its answer is dropped, so a new one may start.
        return vec![Action::Plan];
    }
    if desired.target == TargetState::Stopped && (!observed.tasks.is_empty() || observed.plan != Plan::None) {
        return vec![Action::DropTasks];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn target() -> impl Strategy<Value = TargetState> {
        prop_oneof![Just(TargetState::Started), Just(TargetState::Paused), Just(TargetState::Stopped)]
    }

    /// What can happen to a connector.
    #[derive(Clone, Debug)]
    enum Event {
        NewConfig,
        Target(TargetState),
        TaskEnds(usize, bool),
        Restart(usize),
        PlanEnds(usize),
        Tick(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::NewConfig),
            target().prop_map(Event::Target),
            (0usize..4, any::<bool>()).prop_map(|(i, retry)| Event::TaskEnds(i, retry)),
            (0usize..4).prop_map(Event::Restart),
            (0usize..4).prop_map(Event::PlanEnds),
            (0u64..400).prop_map(Event::Tick),
        ]
    }

    struct Model {
        desired: Desired,
        observed: Observed,
        now: Instant,
        /// The generation that each live task was started with.
        started: Vec<u64>,
    }

    impl Model {
        fn act(&mut self) {
            for action in next(&self.desired, &self.observed, self.now) {
                match action {
                    Action::Plan => {
                        assert!(!self.observed.tasks.iter().any(|task| task.is_live()), "planned over live tasks");
                        self.observed.tasks.clear();
                        self.observed.plan = Plan::Running { generation: self.desired.generation };
                    }
                    Action::Start(index) => {
                        assert_eq!(self.desired.target, TargetState::Started);
                        assert!(!self.observed.tasks[index].is_live(), "two live tasks of one id");
                        self.observed.tasks[index] = Task { phase: Phase::Live { stopping: false }, restart: false };
                        self.started[index] = self.desired.generation;
                    }
                    Action::Stop(index) => {
                        assert_eq!(self.observed.tasks[index].phase, Phase::Live { stopping: false });
                        self.observed.tasks[index].phase = Phase::Live { stopping: true };
                    }
                    Action::DropTasks => {
                        assert!(!self.observed.tasks.iter().any(|task| task.is_live()));
                        self.observed = Observed::default();
                    }
                    Action::WakeAt(at) => assert!(at > self.now),
                    Action::End => assert!(!self.observed.tasks.iter().any(|task| task.is_live())),
                }
            }
        }

        fn end_all(&mut self) {
            for task in &mut self.observed.tasks {
                if let Phase::Live { stopping: true } = task.phase {
                    *task = Task::default();
                }
            }
            if let Plan::Running { generation } = self.observed.plan {
                self.observed.plan = Plan::Done { generation };
                self.observed.tasks = vec![Task::default(); 2];
                self.started = vec![0; 2];
            }
        }
    }

    proptest! {
        /// Whatever happens: no second live task of one id, no task of an old generation beside a new one, and once events stop the connector
        /// comes to what is wanted.
        #[test]
        fn it_converges(events in prop::collection::vec(event(), 0..60)) {
            let desired = Desired { generation: 1, target: TargetState::Started, ending: false };
            let mut model = Model { desired, observed: Observed::default(), now: Instant::now(), started: Vec::new() };
            for event in events {
                match event {
                    Event::NewConfig => model.desired.generation += 1,
                    Event::Target(target) => model.desired.target = target,
                    Event::TaskEnds(index, retry) => {
                        let until = model.now + Duration::from_millis(100);
                        if let Some(task) = model.observed.tasks.get_mut(index)
                            && let Phase::Live { stopping } = task.phase {
                            let phase = if stopping { Phase::Idle } else if retry { Phase::Backoff { until } } else { Phase::Failed };
                            *task = Task { phase, restart: false };
                        }
                    }
                    Event::Restart(index) => if let Some(task) = model.observed.tasks.get_mut(index) { task.restart = true },
                    Event::PlanEnds(n) => if let Plan::Running { generation } = model.observed.plan {
                        model.observed.plan = Plan::Done { generation };
                        model.observed.tasks = vec![Task::default(); n];
                        model.started = vec![0; n];
                    },
                    Event::Tick(ms) => model.now += Duration::from_millis(ms),
                }
                model.act();
                for (index, task) in model.observed.tasks.iter().enumerate() {
                    if task.phase == (Phase::Live { stopping: false }) {
                        prop_assert_eq!(model.started[index], model.desired.generation);
                    }
                }
            }
            for _ in 0..6 {
                model.end_all();
                model.now += Duration::from_secs(1);
                model.act();
            }
            match model.desired.target {
                TargetState::Started => for task in &model.observed.tasks {
                    prop_assert!(matches!(task.phase, Phase::Live { stopping: false } | Phase::Failed), "{:?}", task);
                },
                _ => prop_assert!(!model.observed.tasks.iter().any(|task| task.is_live())),
            }
            model.desired.ending = true;
            for _ in 0..3 { model.act(); model.end_all(); }
            prop_assert_eq!(next(&model.desired, &model.observed, model.now), vec![Action::End]);
        }
    }
}
