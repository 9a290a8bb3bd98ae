//! Histories, models, checkers and nemeses.
