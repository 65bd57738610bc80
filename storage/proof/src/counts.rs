//! What a run counts of what it has tried: a structure of numbers, to which those of another run can be added.

/// Makes such a structure.
macro_rules! counts {
    ($(#[$outer:meta])* pub struct $name:ident { $($(#[$inner:meta])* pub $field:ident,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$inner])* pub $field: u64,)* }

        impl $name {
            /// Adds another run's numbers.
            pub fn add(&mut self, other: &Self) {
                $(self.$field = self.$field.wrapping_add(other.$field);)*
            }
        }
    };
}

pub(crate) use counts;
