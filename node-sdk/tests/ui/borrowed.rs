use hivemind::message;

#[message]
struct Named<'a> {
    name: &'a str,
}

#[message]
struct Fixed {
    name: &'static str,
    list: Vec<Option<&'static [u8]>>,
}

fn main() {}
