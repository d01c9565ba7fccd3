//! What a broker does: topology, routing, access, queues, dispatch
