package tenancy

// CanQuery is what Can asks.
const CanQuery = canQuery
