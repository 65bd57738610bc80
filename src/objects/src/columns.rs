//! Table columns.

/// One column of a Table (`metav1.TableColumnDefinition`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `boolean`, `number`, `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 only by `-o wide`.
    pub priority: i32,
}

impl Column {
    pub const fn new(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, format: "", description: "", priority: 0 }
    }

    pub const fn wide(name: &'static str, kind: &'static str) -> Self {
        Self { priority: 1, ..Self::new(name, kind) }
    }

    pub const NAME: Self = Self { format: "name", ..Self::new("Name", "string") };
    pub const AGE: Self = Self::new("Age", "string");
}
