// Counts what nginx refuses, for Prometheus: the API, which has the other metrics, never sees these requests.

const NAME = 'flashsale_edge_refusals_total';

function place(uri) {
    if (uri.startsWith('/api/auth/')) return 'auth';
    if (uri.startsWith('/api/')) return 'api';
    return uri.startsWith('/sse/') ? 'sse' : 'pages';
}

function count(r) {
    const limit = r.variables.limit_conn_status === 'REJECTED' ? 'connections' : 'requests';
    ngx.shared.refusals.incr(`limit="${limit}",place="${place(r.variables.uri)}"`, 1, 0);
    return '';
}

function metrics(r) {
    const lines = [`# HELP ${NAME} Requests that nginx refused by its limits.`, `# TYPE ${NAME} counter`];
    ngx.shared.refusals.items().forEach((one) => lines.push(`${NAME}{${one[0]}} ${one[1]}`));
    r.headersOut['Content-Type'] = 'text/plain; version=0.0.4';
    r.return(200, lines.join('\n') + '\n');
}

export default { count, metrics };
