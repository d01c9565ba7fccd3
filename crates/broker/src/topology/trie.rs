//! The binding keys of a topic exchange, word by word.
//!
//! A routing key is matched by walking all patterns at once, a word at a time: the cost is the number of words times the
//! number of nodes that are still in play, however many `#` a pattern has.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

/// A persistent set of topic patterns.
#[derive(Clone, Debug, Default)]
pub(super) struct Trie {
    root: Node,
}

/// Invariant: only the root may have neither a pattern nor children.
#[derive(Clone, Debug, Default)]
struct Node {
    /// The pattern that ends here.
    pattern: Option<Arc<str>>,
    words: OrdMap<Arc<str>, Arc<Node>>,
    /// After `*`: exactly one word.
    one: Option<Arc<Node>>,
    /// After `#`: any number of words.
    any: Option<Arc<Node>>,
}

/// A node in play.
#[derive(Clone, Copy)]
struct Place<'a> {
    node: &'a Node,
    /// Whether it was reached by `#` and so swallows further words.
    swallows: bool,
}

/// The words of a key. RabbitMQ: the empty key has none; between two dots is an empty word.
pub(super) fn words(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').skip(usize::from(key.is_empty()))
}

impl Trie {
    /// Adds a pattern; again is no change.
    pub(super) fn insert(&mut self, pattern: &Arc<str>) {
        self.root.insert(words(pattern), pattern);
    }

    /// Removes a pattern if it is there.
    pub(super) fn remove(&mut self, pattern: &str) {
        self.root.remove(words(pattern));
    }

    /// Calls `found` with each pattern that matches `key`, once.
    pub(super) fn matches<'a>(&'a self, key: &str, mut found: impl FnMut(&'a Arc<str>)) {
        let mut places = Vec::new();
        let mut next = Vec::new();
        enter(&mut places, Place { node: &self.root, swallows: false });
        for word in words(key) {
            for place in places.drain(..) {
                advance(&mut next, place, word);
            }
            next.sort_unstable_by_key(|place| std::ptr::from_ref(place.node));
            next.dedup_by_key(|place| std::ptr::from_ref(place.node));
            std::mem::swap(&mut places, &mut next);
        }
        for pattern in places.iter().filter_map(|place| place.node.pattern.as_ref()) {
            found(pattern);
        }
    }

    /// All patterns.
    pub(super) fn to_set(&self) -> OrdSet<Arc<str>> {
        let mut patterns = OrdSet::new();
        let mut nodes = vec![&self.root];
        while let Some(node) = nodes.pop() {
            patterns.extend(node.pattern.clone());
            nodes.extend(node.children());
        }
        patterns
    }
}

/// Puts a node in play, and what follows it when `#` stands for no word.
fn enter<'a>(places: &mut Vec<Place<'a>>, mut place: Place<'a>) {
    loop {
        places.push(place);
        let Some(any) = &place.node.any else { return };
        place = Place { node: any, swallows: true };
    }
}

fn advance<'a>(places: &mut Vec<Place<'a>>, place: Place<'a>, word: &str) {
    if place.swallows {
        enter(places, place);
    }
    let exact = place.node.words.get(word);
    for node in exact.into_iter().chain(&place.node.one) {
        enter(places, Place { node, swallows: false });
    }
}

impl Node {
    fn insert<'a>(&mut self, mut words: impl Iterator<Item = &'a str>, pattern: &Arc<str>) {
        let child = match words.next() {
            None => {
                self.pattern = Some(Arc::clone(pattern));
                return;
            }
            Some("*") => self.one.get_or_insert_default(),
            Some("#") => self.any.get_or_insert_default(),
            Some(word) => self.words.entry(word.into()).or_default(),
        };
        Arc::make_mut(child).insert(words, pattern);
    }

    fn remove<'a>(&mut self, mut words: impl Iterator<Item = &'a str>) {
        let Some(word) = words.next() else {
            self.pattern = None;
            return;
        };
        let child = match word {
            "*" => self.one.as_mut(),
            "#" => self.any.as_mut(),
            _ => self.words.get_mut(word),
        };
        let Some(child) = child else { return };
        let child = Arc::make_mut(child);
        child.remove(words);
        if child.is_empty() {
            self.cut(word);
        }
    }

    fn cut(&mut self, word: &str) {
        match word {
            "*" => self.one = None,
            "#" => self.any = None,
            _ => drop(self.words.remove(word)),
        }
    }

    fn is_empty(&self) -> bool {
        self.pattern.is_none() && self.children().next().is_none()
    }

    fn children(&self) -> impl Iterator<Item = &Node> {
        self.words.values().chain(&self.one).chain(&self.any).map(|node| &**node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn trie(patterns: &[&str]) -> Trie {
        let mut trie = Trie::default();
        patterns.iter().for_each(|pattern| trie.insert(&(*pattern).into()));
        trie
    }

    fn matching(trie: &Trie, key: &str) -> Vec<String> {
        let mut found = Vec::new();
        trie.matches(key, |pattern| found.push(pattern.to_string()));
        found.sort();
        found
    }

    /// The definition, word by word; exponential.
    fn naive(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) => naive(rest, key) || (!key.is_empty() && naive(pattern, &key[1..])),
            ([first, rest @ ..], [word, key @ ..]) => (*first == "*" || first == word) && naive(rest, key),
            _ => false,
        }
    }

    #[test]
    fn stars_are_one_word_and_hashes_any_number() {
        let trie = trie(&["a.*.c", "a.#", "#", "a.b.c", "*", "#.c", "*.#", "a.", ""]);
        let mut story = String::new();
        for key in ["a.b.c", "a", "", ".", "a.", "b"] {
            story += &format!("{key:?} {}\n", matching(&trie, key).join(" | "));
        }
        expect_test::expect![[r##"
            "a.b.c" # | #.c | *.# | a.# | a.*.c | a.b.c
            "a" # | * | *.# | a.#
            ""  | #
            "." # | *.#
            "a." # | *.# | a. | a.#
            "b" # | * | *.#
        "##]]
        .assert_eq(&story);
    }

    #[test]
    fn many_hashes_stay_cheap() {
        let pattern = format!("{}b", "#.".repeat(100));
        let key = "a.".repeat(127) + "b";
        assert_eq!(matching(&trie(&[&pattern]), &key), [pattern]);
        assert!(matching(&trie(&["#.a.#.a.#.a.#.c"]), &key).is_empty());
    }

    #[test]
    fn removing_patterns_leaves_nothing() {
        let patterns = ["a.*", "a", "#.b", "a.*.c", ""];
        let mut trie = trie(&patterns);
        patterns.iter().for_each(|pattern| trie.remove(pattern));
        trie.remove("never.there");
        assert!(trie.root.is_empty());
    }

    fn keys(word: &'static str) -> impl Strategy<Value = Vec<String>> {
        vec(vec(word, 0..6).prop_map(|words| words.join(".")), 1..12)
    }

    proptest! {
        #[test]
        fn matches_as_the_definition_says(patterns in keys("[ab*#]?"), removed in keys("[ab*#]?"), keys in keys("[ab]?")) {
            let mut trie = trie(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
            removed.iter().for_each(|pattern| trie.remove(pattern));
            let left: std::collections::BTreeSet<_> = patterns.iter().filter(|it| !removed.contains(it)).collect();
            for key in &keys {
                let key_words: Vec<_> = words(key).collect();
                let expected: Vec<_> = left
                    .iter()
                    .filter(|pattern| naive(&words(pattern).collect::<Vec<_>>(), &key_words))
                    .map(ToString::to_string)
                    .collect();
                prop_assert_eq!(matching(&trie, key), expected, "key {:?}", key);
            }
        }
    }
}
