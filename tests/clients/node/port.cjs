// Preloaded into programs that know one address, localhost:5672: it becomes that of the broker under test.
'use strict';
const net = require('node:net');

const { hostname, port } = new URL(process.env.AMQP_URL);
const { connect } = net;
net.connect = (options, ...rest) => connect({ ...options, host: hostname, port: Number(port) || 5672 }, ...rest);
