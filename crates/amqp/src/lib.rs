//! AMQP 0-9-1 as bytes and state machines, both sides, zero-copy
