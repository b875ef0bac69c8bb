//! The encoding of a type with serde's derives, as text: `{items: [string], paid: u64?}`. Finds it by reading values that do not exist.
//!
//! A type's `Deserialize` asks for its parts one by one, since the encoding does not describe itself. The explorer notes what is asked for,
//! and answers with a zero, an empty text, or nothing. Where there is a choice (a variant, an option, the items of a list), it takes the
//! first alternative and comes back for the others, until it has taken each once. A type inside itself is not entered again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// More passes than a type of state can need.
const PASSES: usize = 1_000;

/// Returns the encoding of a type.
pub(crate) fn of<T: DeserializeOwned>() -> String {
    let mut explorer = Explorer::default();
    let mut next = Some(BTreeMap::new());
    for _ in 0..PASSES {
        let Some(choices) = next else { break };
        explorer.choices = choices;
        explorer.within.clear();
        // A pass that fails has noted what it met before.
        let _ = T::deserialize(Part { explorer: &mut explorer, path: String::new() });
        next = explorer.open.pop();
    }
    let mut text = String::new();
    explorer.write("", &mut text);
    text
}

/// What was asked for at a place.
#[derive(Clone)]
enum Node {
    Leaf(&'static str),
    Option,
    List,
    Map,
    Tuple(usize),
    Struct(&'static [&'static str]),
    Enum(&'static [&'static str]),
    /// The type that is this many types further out.
    Again(usize),
}

#[derive(Default)]
struct Explorer {
    nodes: BTreeMap<String, Node>,
    /// The alternatives of this pass, by place; elsewhere the first.
    choices: BTreeMap<String, u32>,
    /// Alternatives that were taken, or will be.
    known: BTreeSet<(String, u32)>,
    /// The choices of passes to come.
    open: Vec<BTreeMap<String, u32>>,
    /// The types that this place lies in.
    within: Vec<(&'static str, &'static [&'static str])>,
}

impl Explorer {
    /// Takes one of `count` alternatives.
    fn choose(&mut self, path: &str, count: u32) -> u32 {
        for other in 0..count {
            if self.known.insert((path.to_owned(), other)) && other > 0 {
                let mut choices = self.choices.clone();
                choices.insert(path.to_owned(), other);
                self.open.push(choices);
            }
        }
        self.choices.get(path).copied().unwrap_or(0)
    }

    fn write(&self, path: &str, out: &mut String) {
        let list = |names: &mut dyn Iterator<Item = (String, &str)>, out: &mut String| {
            for (i, (place, name)) in names.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                out.push_str(name);
                self.write(&place, out);
            }
        };
        match self.nodes.get(path) {
            // No value of it can be made up: the types themselves decide what they accept.
            None => out.push('?'),
            Some(Node::Leaf(name)) => out.push_str(name),
            Some(Node::Option) => {
                self.write(&format!("{path}?"), out);
                out.push('?');
            }
            Some(Node::List) => {
                out.push('[');
                self.write(&format!("{path}*"), out);
                out.push(']');
            }
            Some(Node::Map) => {
                out.push('{');
                self.write(&format!("{path}<"), out);
                out.push_str(" => ");
                self.write(&format!("{path}>"), out);
                out.push('}');
            }
            Some(Node::Tuple(length)) => {
                out.push('(');
                list(&mut (0..*length).map(|i| (format!("{path}.{i}"), "")), out);
                out.push(')');
            }
            Some(Node::Struct(fields)) => {
                let fields: Vec<String> = fields.iter().map(|field| format!("{field}: ")).collect();
                out.push('{');
                list(&mut fields.iter().enumerate().map(|(i, field)| (format!("{path}.{i}"), field.as_str())), out);
                out.push('}');
            }
            Some(Node::Enum(variants)) => {
                out.push('<');
                list(&mut variants.iter().enumerate().map(|(i, name)| (format!("{path}#{i}"), *name)), out);
                out.push('>');
            }
            Some(Node::Again(levels)) => {
                out.push('^');
                out.push_str(&levels.to_string());
            }
        }
    }
}

/// Why a pass ends early.
#[derive(Debug)]
struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no such value")
    }
}

impl std::error::Error for Ended {}

impl Error for Ended {
    fn custom<T: fmt::Display>(_: T) -> Ended {
        Ended
    }
}

/// A place in a value that is being read.
struct Part<'a> {
    explorer: &'a mut Explorer,
    path: String,
}

impl Part<'_> {
    fn note(&mut self, node: Node) {
        self.explorer.nodes.insert(self.path.clone(), node);
    }

    fn inner(&mut self, step: &str) -> Part<'_> {
        Part { path: format!("{}{step}", self.path), explorer: self.explorer }
    }

    /// Enters a type with a name, unless this place lies in it already.
    fn enter(&mut self, name: &'static str, parts: &'static [&'static str]) -> Result<(), Ended> {
        if let Some(at) = self.explorer.within.iter().rposition(|outer| *outer == (name, parts)) {
            let levels = self.explorer.within.len() - at;
            self.note(Node::Again(levels));
            return Err(Ended);
        }
        self.explorer.within.push((name, parts));
        Ok(())
    }

    fn parts<'de, V: Visitor<'de>>(mut self, length: usize, visitor: V) -> Result<V::Value, Ended> {
        visitor.visit_seq(Parts { part: self.inner(""), next: 0, length })
    }
}

macro_rules! leaves {
    ($($method:ident $visit:ident $name:literal $value:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Ended> {
            self.note(Node::Leaf($name));
            visitor.$visit($value)
        }
    )*};
}

impl<'de> Deserializer<'de> for Part<'_> {
    type Error = Ended;

    leaves! {
        deserialize_bool visit_bool "bool" false;
        deserialize_i8 visit_i8 "i8" 0;
        deserialize_i16 visit_i16 "i16" 0;
        deserialize_i32 visit_i32 "i32" 0;
        deserialize_i64 visit_i64 "i64" 0;
        deserialize_i128 visit_i128 "i128" 0;
        deserialize_u8 visit_u8 "u8" 0;
        deserialize_u16 visit_u16 "u16" 0;
        deserialize_u32 visit_u32 "u32" 0;
        deserialize_u64 visit_u64 "u64" 0;
        deserialize_u128 visit_u128 "u128" 0;
        deserialize_f32 visit_f32 "f32" 0.0;
        deserialize_f64 visit_f64 "f64" 0.0;
        deserialize_char visit_char "char" '0';
        deserialize_str visit_str "string" "";
        deserialize_string visit_str "string" "";
        deserialize_bytes visit_bytes "bytes" &[];
        deserialize_byte_buf visit_bytes "bytes" &[];
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Ended> {
        Err(Ended)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Ended> {
        Err(Ended)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Ended> {
        Err(Ended)
    }

    fn deserialize_unit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Ended> {
        self.note(Node::Tuple(0));
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Ended> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Ended> {
        self.note(Node::Option);
        match self.explorer.choose(&self.path, 2) {
            0 => visitor.visit_none(),
            _ => visitor.visit_some(self.inner("?")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.enter(name, &[])?;
        let value = visitor.visit_newtype_struct(self.inner(""));
        self.explorer.within.pop();
        value
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Ended> {
        self.note(Node::List);
        let length = self.explorer.choose(&self.path, 2);
        visitor.visit_seq(Items { part: self, left: length > 0 })
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Ended> {
        self.note(Node::Map);
        let length = self.explorer.choose(&self.path, 2);
        visitor.visit_map(Items { part: self, left: length > 0 })
    }

    fn deserialize_tuple<V: Visitor<'de>>(mut self, length: usize, visitor: V) -> Result<V::Value, Ended> {
        self.note(Node::Tuple(length));
        self.parts(length, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.enter(name, &[])?;
        self.note(Node::Tuple(length));
        let value = self.inner("").parts(length, visitor);
        self.explorer.within.pop();
        value
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.enter(name, fields)?;
        self.note(Node::Struct(fields));
        let value = self.inner("").parts(fields.len(), visitor);
        self.explorer.within.pop();
        value
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.enter(name, variants)?;
        self.note(Node::Enum(variants));
        let count = u32::try_from(variants.len()).unwrap_or(u32::MAX);
        let variant = self.explorer.choose(&self.path, count);
        let value = visitor.visit_enum(Chosen { part: self.inner(&format!("#{variant}")), variant });
        self.explorer.within.pop();
        value
    }
}

/// The parts of a tuple or a struct.
struct Parts<'a> {
    part: Part<'a>,
    next: usize,
    length: usize,
}

impl<'de> SeqAccess<'de> for Parts<'_> {
    type Error = Ended;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Ended> {
        if self.next == self.length {
            return Ok(None);
        }
        self.next += 1;
        seed.deserialize(self.part.inner(&format!(".{}", self.next - 1))).map(Some)
    }
}

/// The item of a list or the entry of a map, or none.
struct Items<'a> {
    part: Part<'a>,
    left: bool,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Ended;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Ended> {
        std::mem::take(&mut self.left).then(|| seed.deserialize(self.part.inner("*"))).transpose()
    }
}

impl<'de> MapAccess<'de> for Items<'_> {
    type Error = Ended;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Ended> {
        std::mem::take(&mut self.left).then(|| seed.deserialize(self.part.inner("<"))).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Ended> {
        seed.deserialize(self.part.inner(">"))
    }
}

/// A variant of an enum.
struct Chosen<'a> {
    part: Part<'a>,
    variant: u32,
}

impl<'de, 'a> EnumAccess<'de> for Chosen<'a> {
    type Error = Ended;
    type Variant = Part<'a>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Part<'a>), Ended> {
        Ok((seed.deserialize(U32Deserializer::new(self.variant))?, self.part))
    }
}

impl<'de> VariantAccess<'de> for Part<'_> {
    type Error = Ended;

    fn unit_variant(mut self) -> Result<(), Ended> {
        self.note(Node::Leaf(""));
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(mut self, seed: T) -> Result<T::Value, Ended> {
        self.note(Node::Tuple(1));
        seed.deserialize(self.inner(".0"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Ended> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        mut self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.note(Node::Struct(fields));
        self.parts(fields.len(), visitor)
    }
}
