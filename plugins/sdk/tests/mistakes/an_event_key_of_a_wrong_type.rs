use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record};

struct Plugin;

impl Mapper for Plugin {
    type Event = ();
    type Value = ();
    type Item = ();

    fn describe() -> Description {
        Description::new("plugin", "1")
    }

    fn configure(_: &str) -> Result<Plugin, String> {
        Ok(Plugin)
    }

    fn map(&self, _: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        out.push((1, "ann"), 0, &());
        Ok(())
    }

    fn on_event(&self, _: &mut Key<'_, Self>, _: &Event<'_, Self>) -> Result<(), String> {
        Ok(())
    }

    fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> {
        Ok(())
    }
}

fn main() {}
