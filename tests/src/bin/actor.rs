//! A process of a hive that does what a test tells it on its standard input. See `hivemind_tests::actor`.

fn main() {
    hivemind_tests::actor::act();
}
