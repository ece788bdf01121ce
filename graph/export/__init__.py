"""Pictures and exports of a graph, one format a file: graph -> view (what is drawn) -> the table of formats."""
