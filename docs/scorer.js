// How results of the search are ordered. What explains comes before long records, and
// the front module before others that have a function of the same name.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const records = ["benchmarks", "bibliography", "figures", "zoo"];
    if (records.includes(docname)) return score / 4;
    if (docname === "api/isometry") return score + 2;
    return score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
