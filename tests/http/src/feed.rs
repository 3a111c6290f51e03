//! A paged API whose order and cursors are stable: what was added stays where it is, new items come at the end.

use crate::answer::Answer;
use crate::server::Request;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// Items with ids from 0 on; cheap to clone, shared.
#[derive(Clone, Default)]
pub struct Feed(Arc<Mutex<Vec<Value>>>);

/// How its pages are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paged {
    /// `?page=2`, and `Link: <…>; rel="next"`.
    Link,
    /// `{"items": […], "next": "/items?page=2"}`
    Next,
    /// `?page=2`, a short page is the last.
    Page,
    /// `?offset=40`
    Offset,
    /// `?cursor=c40` and `{"items": […], "cursor": "c60"}`, null at the end.
    Cursor,
    /// `?after=39`: what has a larger id, without a word about more.
    After,
}

impl Feed {
    pub fn new() -> Self {
        Self::default()
    }

    /// So many more items: `{"id": 17, "name": "item 17", "at": 1700000000017}`.
    pub fn add(&self, count: u64) {
        let mut items = self.items();
        for _ in 0..count {
            let id = items.len() as u64;
            items.push(json!({"id": id, "name": format!("item {id}"), "at": 1_700_000_000_000 + id}));
        }
    }

    pub fn len(&self) -> u64 {
        self.items().len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes the list as an API does that keeps no order.
    pub fn change(&self, change: impl FnOnce(&mut Vec<Value>)) {
        change(&mut self.items());
    }

    fn items(&self) -> std::sync::MutexGuard<'_, Vec<Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a request for a page of this many items.
    pub fn answer(&self, request: &Request, paged: Paged, size: usize) -> Answer {
        let items = self.items();
        let number = |name: &str| request.param(name).and_then(|text| text.parse::<usize>().ok());
        let from = match paged {
            Paged::Link | Paged::Next | Paged::Page => number("page").unwrap_or(1).saturating_sub(1) * size,
            Paged::Offset => number("offset").unwrap_or(0),
            Paged::Cursor => request.param("cursor").and_then(|cursor| cursor.strip_prefix('c')?.parse().ok()).unwrap_or(0),
            Paged::After => number("after").map_or(0, |after| after + 1),
        };
        let from = from.min(items.len());
        let to = (from + size).min(items.len());
        let (page, more) = (&items[from..to], to < items.len());
        let next = format!("{}?page={}", request.path, from / size + 2);
        match paged {
            Paged::Link => {
                let answer = Answer::json(200, json!(page).to_string());
                if more { answer.header("link", format!("<{next}>; rel=\"next\", <?page=1>; rel=\"first\"")) } else { answer }
            }
            Paged::Next => Answer::json(200, json!({"items": page, "next": more.then_some(next)}).to_string()),
            Paged::Cursor => Answer::json(200, json!({"items": page, "cursor": more.then(|| format!("c{to}"))}).to_string()),
            Paged::Page | Paged::Offset | Paged::After => Answer::json(200, json!({"items": page}).to_string()),
        }
    }

    /// For `Api::start`: this feed at every path.
    pub fn handler(&self, paged: Paged, size: usize) -> impl Fn(&Request) -> Answer + Send + Sync + 'static + use<> {
        let feed = self.clone();
        move |request| feed.answer(request, paged, size)
    }
}
