pub struct Plan{pub endpoints:Vec<String>,pub duration:std::time::Duration,pub writers:usize,pub watchers:usize,pub seed:u64,pub progress:bool,pub settle:std::time::Duration}
pub struct Report{pub violations:Vec<String>}
impl std::fmt::Display for Report{fn fmt(&self,_:&mut std::fmt::Formatter<'_>)->std::fmt::Result{Ok(())}}
pub async fn observe(_:&Plan)->Result<Report,crate::server::ServerError>{Ok(Report{violations:vec![]})}
