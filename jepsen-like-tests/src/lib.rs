//! The place of histories, checkers, faults and the seeded simulation; see the README beside it for what is checked
//! today, and where.
