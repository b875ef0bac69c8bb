//! The rows of two plugins over one log, held against each other as the tables that they would make: of each table and primary key the
//! last row counts. Does no I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::row::json::write_columns;
use crate::row::{RowRef, Rows, Table};

/// Which of two plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    /// As lines and logs name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::A => "a",
            Side::B => "b",
        }
    }
}

/// How many rows two plugins leave in their tables, and how many of them differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Primary keys with the same row.
    pub same: u64,
    /// Primary keys with another row.
    pub different: u64,
    /// Primary keys that only the first plugin writes.
    pub only_a: u64,
    /// Primary keys that only the second plugin writes.
    pub only_b: u64,
}

impl Summary {
    /// Whether anything differs.
    pub fn differs(&self) -> bool {
        self.different + self.only_a + self.only_b > 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { same, different, only_a, only_b } = self;
        let both = same + different;
        write!(f, "rows A {}, B {}; ", both + only_a, both + only_b)?;
        write!(f, "same {same}, different {different}, only A {only_a}, only B {only_b}")
    }
}

/// The row of each side, as JSON; none where a side has no such primary key.
type Pair = [Option<Rc<[u8]>>; 2];

/// What both plugins have written so far.
#[derive(Debug)]
pub(crate) struct Difference {
    layouts: [Vec<Layout>; 2],
    /// By `{"table":...,"key":{...}`, the beginning of a line. Equal rows of both sides are held once.
    rows: BTreeMap<Box<[u8]>, Pair>,
    /// Equal pairs that were forgotten.
    settled: u64,
    key: Vec<u8>,
    row: Vec<u8>,
}

/// The columns of a table in the order in which rows are compared.
#[derive(Debug)]
struct Layout {
    columns: Vec<usize>,
    key: Vec<usize>,
}

impl Difference {
    /// Nothing yet, of plugins that declare these tables.
    pub(crate) fn new(a: &[Table], b: &[Table]) -> Difference {
        let layouts = [a.iter().map(|t| Layout::new(t, a)).collect(), b.iter().map(|t| Layout::new(t, a)).collect()];
        Difference { layouts, rows: BTreeMap::new(), settled: 0, key: Vec::new(), row: Vec::new() }
    }

    /// Takes a row, over a former one of its primary key.
    pub(crate) fn take(&mut self, side: Side, rows: &Rows, row: RowRef) {
        let (this, other) = match side {
            Side::A => (0, 1),
            Side::B => (1, 0),
        };
        let layout = &self.layouts[this][rows.table(row).0];
        self.key.clear();
        self.key.extend_from_slice(b"{\"table\":");
        serde_json::to_writer(&mut self.key, &rows.table(row).1.name).expect("a Vec takes all");
        self.key.extend_from_slice(b",\"key\":");
        write_columns(&mut self.key, rows, row, &layout.key);
        self.row.clear();
        write_columns(&mut self.row, rows, row, &layout.columns);
        let held = match self.rows.get_mut(&self.key[..]) {
            Some(held) => held,
            None => self.rows.entry(self.key.as_slice().into()).or_default(),
        };
        held[this] = Some(match &held[other] {
            Some(same) if same[..] == self.row[..] => Rc::clone(same),
            _ => self.row.as_slice().into(),
        });
    }

    /// A line of JSON for each primary key whose rows differ, by table and key.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Vec<u8>> {
        let parts = |held: &[Option<Rc<[u8]>>; 2]| match held {
            [Some(a), Some(b)] if a == b => None,
            [Some(a), Some(b)] => Some([b",\"a\":", &a[..], b",\"b\":", &b[..], b"}\n"].concat()),
            [Some(_), None] => Some(b",\"only\":\"a\"}\n".to_vec()),
            [None, Some(_)] => Some(b",\"only\":\"b\"}\n".to_vec()),
            [None, None] => None,
        };
        self.rows.iter().filter_map(move |(key, held)| Some([&key[..], &parts(held)?].concat()))
    }

    /// Forgets the rows in which both agree, but for their number: a comparison without end holds only what differs. Gives how many
    /// primary keys that are.
    pub(crate) fn settle(&mut self) -> usize {
        let before = self.rows.len();
        self.rows.retain(|_, held| !matches!(held, [Some(a), Some(b)] if a == b));
        self.settled += (before - self.rows.len()) as u64;
        self.rows.len()
    }

    /// How many rows there are, and how many differ.
    pub(crate) fn summary(&self) -> Summary {
        let mut summary = Summary { same: self.settled, ..Summary::default() };
        for held in self.rows.values() {
            match held {
                [Some(a), Some(b)] if a == b => summary.same += 1,
                [Some(_), Some(_)] => summary.different += 1,
                [Some(_), None] => summary.only_a += 1,
                [None, Some(_)] => summary.only_b += 1,
                [None, None] => {}
            }
        }
        summary
    }
}

impl Layout {
    /// The columns in the order of the table of the same name in `like`, further ones behind: plugins may declare them in another order.
    fn new(table: &Table, like: &[Table]) -> Layout {
        let first = like.iter().find(|other| other.name == table.name).unwrap_or(table);
        let place = |column: &usize| {
            let name = &table.columns[*column].name;
            first.columns.iter().position(|other| other.name == *name).unwrap_or(usize::MAX)
        };
        let mut columns: Vec<usize> = (0..table.columns.len()).collect();
        columns.sort_by_key(place);
        let key = columns.iter().copied().filter(|&column| table.columns[column].primary_key).collect();
        Layout { columns, key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Offset, Partition};

    use crate::row::{Column, ColumnData, ColumnSpec, ColumnType, Origin, Part};

    /// A table of integers; those marked by `*` are its primary key.
    fn table(name: &str, columns: &[&str]) -> Table {
        let column = |name: &&str| ColumnSpec {
            name: name.trim_end_matches('*').into(),
            kind: ColumnType::Integer,
            primary_key: name.ends_with('*'),
        };
        Table { name: name.into(), columns: columns.iter().map(column).collect() }
    }

    /// Takes rows of the first of `tables`.
    fn take(difference: &mut Difference, side: Side, tables: &[Table], rows: &[&[i64]]) {
        let columns = (0..tables[0].columns.len())
            .map(|i| Column { data: ColumnData::Integers(rows.iter().map(|row| row[i]).collect()), nulls: Vec::new() });
        let origin = Origin { partition: Partition(0), offset: Offset(0), event: None };
        let mut all = Rows::new(tables.into());
        all.parts.push(Part { table: 0, columns: columns.collect() });
        all.order = (0..).take(rows.len()).map(|row| RowRef { part: 0, row, origin }).collect();
        all.order.iter().for_each(|&row| difference.take(side, &all, row));
    }

    fn lines(difference: &Difference) -> Vec<String> {
        difference.lines().map(|line| String::from_utf8(line).expect("lines are UTF-8")).collect()
    }

    #[test]
    fn the_last_row_of_each_primary_key_counts() {
        let tables = [table("t", &["k*", "v"])];
        let mut difference = Difference::new(&tables, &tables);
        take(&mut difference, Side::A, &tables, &[&[1, 1], &[2, 1], &[3, 1], &[1, 2]]);
        take(&mut difference, Side::B, &tables, &[&[1, 1], &[2, 1], &[4, 1], &[2, 2], &[1, 2]]);
        assert_eq!(
            lines(&difference),
            [
                "{\"table\":\"t\",\"key\":{\"k\":2},\"a\":{\"k\":2,\"v\":1},\"b\":{\"k\":2,\"v\":2}}\n",
                "{\"table\":\"t\",\"key\":{\"k\":3},\"only\":\"a\"}\n",
                "{\"table\":\"t\",\"key\":{\"k\":4},\"only\":\"b\"}\n",
            ]
        );
        let summary = difference.summary();
        assert!(summary.differs());
        assert_eq!(summary.to_string(), "rows A 3, B 3; same 1, different 1, only A 1, only B 1");
    }

    #[test]
    fn equal_rows_differ_in_nothing_whatever_the_order_of_columns_and_writes() {
        let (a, b) = ([table("t", &["k*", "n*", "v"])], [table("t", &["v", "n*", "k*"])]);
        let mut difference = Difference::new(&a, &b);
        take(&mut difference, Side::B, &b, &[&[5, 2, 1], &[6, 3, 1]]);
        take(&mut difference, Side::A, &a, &[&[1, 3, 6], &[1, 2, 5]]);
        assert_eq!(lines(&difference), Vec::<String>::new());
        assert_eq!(difference.summary(), Summary { same: 2, ..Summary::default() });
        assert!(!difference.summary().differs());
    }

    #[test]
    fn rows_of_different_tables_are_only_in_one() {
        let (a, b) = ([table("t", &["k*", "v"])], [table("u", &["k*", "v"])]);
        let mut difference = Difference::new(&a, &b);
        take(&mut difference, Side::A, &a, &[&[1, 1]]);
        take(&mut difference, Side::B, &b, &[&[1, 1]]);
        assert_eq!(
            lines(&difference),
            [
                "{\"table\":\"t\",\"key\":{\"k\":1},\"only\":\"a\"}\n",
                "{\"table\":\"u\",\"key\":{\"k\":1},\"only\":\"b\"}\n"
            ]
        );
    }
}
